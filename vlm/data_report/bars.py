"""Histograms as SVG; colours come from the page's CSS variables (vlm/inference/style.py)."""

from html import escape

from data.doctor.figures import Spread
from vlm.data_report.words import short
from vlm.inference.curves import ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 180, 38, 8, 10, 24
WIDEST = 34  # a bar


def draw_histogram(title: str, figure: Spread) -> str:
    """A figure with one bar for each step of the values, and the median as a line."""
    histogram = figure.histogram
    low, high = histogram.edges[0], histogram.edges[-1]
    most = max(histogram.counts)
    floor = HEIGHT - BOTTOM
    # Bars of one whole number each have it under their middle.
    is_whole = histogram.edges[1] - low == 1 and isinstance(figure.least, int)

    def x_of(value: int | float) -> float:
        return LEFT + (min(max(value, low), high) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y_of(count: int | float) -> float:
        return TOP + (1 - count / most) * (floor - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for count in ticks(0.0, float(most), 4):
        y = y_of(count)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if count == int(count):
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{brief(count)}</text>')
    for place, count in enumerate(histogram.counts):
        left, right = x_of(histogram.edges[place]), x_of(histogram.edges[place + 1])
        behind = histogram.goes_on and place == len(histogram.counts) - 1
        gap = max(min(1.0, (right - left) / 6), right - left - WIDEST)
        kind = "bar rest" if behind else "bar"
        start, end = short(histogram.edges[place]), short(histogram.edges[place + 1])
        upto = start if is_whole else f"{start} to {end}"
        upto = f"{start} and more" if behind else upto
        parts.append(
            f'<rect class="{kind}" x="{left + gap / 2:.2f}" y="{y_of(count):.2f}" width="{right - left - gap:.2f}" '
            f'height="{floor - y_of(count):.2f}"><title>{upto}: {count:,}</title></rect>'
        )
    for value in ticks(low, high - 1.0 * is_whole, 6):
        if is_whole and value != int(value):
            continue
        x = x_of(value + 0.5 * is_whole)
        anchor = "end" if x > WIDTH - RIGHT - 10 else "middle"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 17}" text-anchor="{anchor}">{brief(value)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = x_of(figure.p50 + 0.5 * is_whole)
    parts.append(f'<line class="target" x1="{middle:.1f}" x2="{middle:.1f}" y1="{TOP}" y2="{floor}"/></svg>')
    told = f"median {short(figure.p50)}, 95 % {short(figure.p95)}, most {short(figure.most)}"
    caption = f"<figcaption>{escape(title)} <small>{told}</small></figcaption>"
    return f'<figure class="chart">{caption}{"".join(parts)}</figure>'


def brief(value: int | float) -> str:
    """`12k`, for an axis."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if sign == 'k' else size):g}{sign}"
    return f"{value:g}"
