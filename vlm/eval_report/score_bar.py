"""A score on a line from 0 to 1, as SVG whose colours come from the page's CSS variables."""


def draw_score_bar(
    score: float, low: float, high: float, chance: float, blind: float | None, majority: float | None = None
) -> str:
    """Score, interval and chance, with the blind score and the best constant answer where they are given."""

    def x(value: float) -> str:
        return f"{5 + 200 * value:.1f}"

    hollow = "" if blind is None else (
        f'<circle cx="{x(blind)}" cy="10" r="3.2" fill="none" stroke="var(--quiet)" stroke-width="1.2"/>'
    )  # fmt: skip
    constant = "" if majority is None else (
        f'<line x1="{x(majority)}" x2="{x(majority)}" y1="3" y2="17" stroke="var(--quiet)"/>'
    )  # fmt: skip
    return (
        '<svg viewBox="0 0 210 20" role="img" aria-hidden="true">'
        '<line x1="5" x2="205" y1="10" y2="10" stroke="var(--rule)" stroke-width="2"/>'
        f'<line x1="{x(chance)}" x2="{x(chance)}" y1="3" y2="17" stroke="var(--quiet)" '
        f'stroke-width="1.2" stroke-dasharray="2 2"/>{constant}'
        f'<line x1="{x(low)}" x2="{x(high)}" y1="10" y2="10" stroke="var(--accent)" stroke-width="6" '
        f'stroke-opacity=".3"/><circle cx="{x(score)}" cy="10" r="4" fill="var(--accent)"/>{hollow}</svg>'
    )
