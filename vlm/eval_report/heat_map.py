"""Long context as a map: scores by length and depth, as SVG whose colours come from the page's CSS variables."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean

from eval.outcome import Outcome
from eval.tasks.long_context import DEPTHS
from vlm.eval_report.runs import Run

CELL_W, CELL_H, LEFT, TOP = 74, 34, 94, 8
WHOLE = "all of it"
Cell = tuple[float, int]  # mean score, questions


def read_cells(outcomes: Sequence[Outcome]) -> dict[tuple[int, int], Cell]:
    """(row of depth, length) -> mean and number; row -1 for questions about the whole context."""
    members: dict[tuple[int, int], list[float]] = defaultdict(list)
    for one in outcomes:
        meta = one.truth.meta
        depth = meta.get("depth")
        row = -1 if depth is None else min(int(depth * DEPTHS), DEPTHS - 1)
        members[row, int(meta["length"])].append(one.score)
    return {place: (fmean(scores), len(scores)) for place, scores in members.items()}


def maps(run: Run) -> dict[str, dict[tuple[int, int], Cell]]:
    """The cells of each kind of question of a run, over all its lengths."""
    found: dict[str, dict[tuple[int, int], Cell]] = defaultdict(dict)
    for name, own in run.tasks.items():
        if name.startswith("long/") and own.outcomes:
            found[name.removeprefix("long/").partition("@")[0]] |= read_cells(own.outcomes)
    return dict(found)


def draw_map(title: str, label: str, cells: Mapping[tuple[int, int], Cell]) -> str:
    """A figure: a column for each length, a row for each depth, score and number of questions in each cell."""
    lengths = sorted({length for _, length in cells})
    rows = sorted({row for row, _ in cells})
    rows = list(range(DEPTHS)) if rows != [-1] else rows
    width, height = LEFT + CELL_W * len(lengths) + 2, TOP + CELL_H * len(rows) + 26
    parts = [f'<svg viewBox="0 0 {max(width, 320)} {height}" role="img" aria-label="{escape(f"{title}, {label}")}">']
    for place, row in enumerate(rows):
        y = TOP + place * CELL_H
        name = WHOLE if row < 0 else f"{row / DEPTHS:.0%} to {(row + 1) / DEPTHS:.0%}"
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + CELL_H / 2 + 4}" text-anchor="end">{name}</text>')
        for column, length in enumerate(lengths):
            parts.append(draw_cell(LEFT + column * CELL_W, y, cells.get((row, length))))
    for column, length in enumerate(lengths):
        x = LEFT + (column + 0.5) * CELL_W
        parts.append(f'<text class="tick" x="{x}" y="{height - 8}" text-anchor="middle">{length:,}</text>')
    parts.append("</svg>")
    caption = f"<figcaption>{escape(title)} <small><bdi>{escape(label)}</bdi></small></figcaption>"
    return f'<figure class="chart">{caption}{"".join(parts)}</figure>'


def draw_cell(x: int, y: int, cell: Cell | None) -> str:
    """One cell; empty where nothing was asked."""
    box = f'x="{x + 1}" y="{y + 1}" width="{CELL_W - 2}" height="{CELL_H - 2}" rx="4"'
    if cell is None:
        return f'<rect {box} class="cell none"/>'
    score, count = cell
    share = 6 + round(84 * score)
    color = "var(--card)" if share > 66 else "var(--ink)"
    middle = x + CELL_W / 2
    return (
        f'<rect {box} style="fill:color-mix(in srgb,var(--accent) {share}%,var(--card))"/>'
        f'<text class="value" style="fill:{color}" x="{middle}" y="{y + 16}" text-anchor="middle">{score:.2f}</text>'
        f'<text class="count" style="fill:{color}" x="{middle}" y="{y + 28}" text-anchor="middle">n {count}</text>'
    )
