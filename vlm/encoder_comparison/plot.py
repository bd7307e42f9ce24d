"""Scores against what they cost, as SVG: a dot with its interval for each encoder, and labels that do not cover each other.

In: marks. Out: a figure whose colours come from the page's CSS variables (vlm/inference/style.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import product

from vlm.inference.curves import ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 470, 330, 40, 12, 14, 42
LETTER, LINE = 6.3, 15  # of a label of 12 px: the width of a letter, and the height
DOT = 5


@dataclass(frozen=True)
class Mark:
    """One encoder in a plot."""

    label: str
    x: float
    score: float
    low: float
    high: float
    is_frozen: bool


@dataclass(frozen=True)
class Box:
    """A rectangle of the drawing, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)


def draw_scores(title: str, x_label: str, marks: Sequence[Mark]) -> str:
    """A figure of score against cost; the cost on a logarithmic scale.

    Args:
        marks: with x above 0.
    """
    low_x, high_x = (math.log10(edge([mark.x for mark in marks])) for edge in (min, max))
    room = max(0.08 * (high_x - low_x), 0.1)
    low_x, high_x = low_x - room, high_x + room
    low, high = min(mark.low for mark in marks), max(mark.high for mark in marks)
    room = 0.06 * (high - low) or 0.05
    low, high = low - room, high + room

    def x_of(value: float) -> float:
        return LEFT + (math.log10(value) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in ticks(low, high):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    floor = HEIGHT - BOTTOM
    for value in log_ticks(10**low_x, 10**high_x):
        x = x_of(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{short(value)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    places = [(x_of(mark.x), y_of(mark.score)) for mark in marks]
    bars = [(y_of(mark.high), y_of(mark.low)) for mark in marks]
    labels = place_labels([mark.label for mark in marks], places, bars)
    for mark, (x, y), (above, below), box in zip(marks, places, bars, labels, strict=True):
        color = "var(--series-1)" if mark.is_frozen else "var(--series-2)"
        near = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
        if math.dist(near, (x, y)) > 3 * DOT:  # too far to be seen as its own
            parts.append(f'<line class="axis" x1="{x:.1f}" y1="{y:.1f}" x2="{near[0]:.1f}" y2="{near[1]:.1f}"/>')
        parts.append(
            f'<line style="stroke:{color};stroke-width:2;opacity:.55" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{above:.1f}" y2="{below:.1f}"/>'
        )
        parts.append(f'<circle class="dot" style="fill:{color}" cx="{x:.1f}" cy="{y:.1f}" r="{DOT}"/>')
        parts.append(
            f'<text style="fill:var(--ink);font-size:12px" x="{box.left:.1f}" y="{box.bottom - 4:.1f}" '
            f'textLength="{box.right - box.left:.1f}" lengthAdjust="spacingAndGlyphs">{escape(mark.label)}</text>'
        )
    parts.append("</svg>")
    kinds = (("frozen", "--series-1", True), ("trained, whole or in part", "--series-2", False))
    keys = "".join(
        f'<span class="key"><i style="background:var({color})"></i>{name}</span>'
        for name, color, is_frozen in kinds
        if any(mark.is_frozen is is_frozen for mark in marks)
    )
    caption = f"<figcaption>{escape(title)} <small>mean of the tasks, 95 % interval</small></figcaption>"
    return f'<figure class="chart">{caption}<div class="keys">{keys}</div>{"".join(parts)}</figure>'


def place_labels(
    labels: Sequence[str], places: Sequence[tuple[float, float]], bars: Sequence[tuple[float, float]]
) -> list[Box]:
    """Where each label goes: as near to its dot as it covers no other label, dot or interval, nor leaves the drawing.

    Args:
        places: of the dots, (x, y).
        bars: upper and lower end of each interval.
    """
    taken = [Box(x - DOT - 1, y - DOT - 1, x + DOT + 1, y + DOT + 1) for x, y in places]
    taken += [Box(x - 2, above, x + 2, below) for (x, _), (above, below) in zip(places, bars, strict=True)]
    found: dict[int, Box] = {}
    # The crowded first: those that have the most neighbours have the fewest places to choose from.
    order = sorted(range(len(labels)), key=lambda one: sum(math.dist(places[one], other) for other in places))
    for one in order:
        x, y = places[one]
        wide = min(LETTER * len(labels[one]), WIDTH - LEFT - RIGHT - 4.0)

        def cost(box: Box, x: float = x, y: float = y) -> tuple[float, float]:
            covered = sum(box.overlap(other) for other in taken)
            return covered, math.dist(((box.left + box.right) / 2, (box.top + box.bottom) / 2), (x, y))

        lefts = (x + DOT + 4, x - DOT - 4 - wide, x - wide / 2, x + 24, x - 24 - wide, LEFT + 2.0, WIDTH - RIGHT - wide)
        tops = (y - LINE / 2 + step * side for step, side in product(range(0, HEIGHT, 5), (-1, 1)))
        boxes = [
            Box(left, top, left + wide, top + LINE)
            for left, top in product(lefts, tops)
            if left >= LEFT and left + wide <= WIDTH - 2 and top >= 0 and top + LINE <= HEIGHT - BOTTOM
        ]
        found[one] = min(boxes, key=cost)
        taken.append(found[one])
    return [found[one] for one in range(len(labels))]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two: powers of ten where there are enough of them, else also 2 and 5 times those."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(found) >= 3:
            break
    return found


def short(value: float) -> str:
    """`300 k`, `2 G`."""
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {sign}"
    return f"{value:g}"
