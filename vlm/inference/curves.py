"""The curves of a training run: read from Lightning's CSV logs, drawn as SVG.

In: a run's folder. Out: series by name, and line charts whose colours come from the page's CSS variables.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

Series = tuple[tuple[float, float], ...]  # (step, value), steps rising
MAX_POINTS = 300  # of one drawn line: a chart is some 600 px wide
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 260, 52, 14, 12, 34


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    points: Series
    color: str = "var(--series-1)"
    faint: bool = False  # True for what stands behind another line, such as values before smoothing
    marked: bool = False  # True for few points, each drawn as a dot


def read_curves(run_folder: str | Path) -> dict[str, Series]:
    """Every numeric column of the run's `logs/**/metrics.csv`, by name.

    A run that was resumed has several files. The newest counts; what an older one has before the newest's first step
    stands before it. An older file of a run that was begun anew is therefore left out.
    """
    found = [(path.stat().st_mtime_ns, path) for path in Path(run_folder).glob("logs/**/metrics.csv")]
    curves: dict[str, Series] = {}
    begins = math.inf
    for _, path in sorted(found, reverse=True):
        columns = _read_columns(path)
        first = min((points[0][0] for points in columns.values()), default=math.inf)
        for name, points in columns.items():
            curves[name] = tuple(point for point in points if point[0] < begins) + curves.get(name, ())
        begins = min(begins, first)
    return {name: points for name, points in sorted(curves.items()) if points}


def _read_columns(path: Path) -> dict[str, Series]:
    columns: dict[str, dict[float, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            step = _number(row.get("step"))
            if step is None:
                continue
            for name, text in row.items():
                value = _number(text)
                if name not in ("step", "epoch") and value is not None:
                    columns.setdefault(name, {})[step] = value
    return {name: tuple(sorted(points.items())) for name, points in columns.items()}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def smooth(points: Series) -> Series:
    """A running mean over about a fortieth of the points, the latest weighing most; not pulled towards 0 at first."""
    keep = 1 - 2 / (max(3, len(points) / 40) + 1)
    mean = weight = 0.0
    out = []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return tuple(out)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about `count` of them, at steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def draw_chart(
    title: str, lines: Sequence[Line], y_label: str, target: float | None = None, top: float | None = None
) -> str:
    """A figure with a line chart over training steps.

    Args:
        target: where a dashed line is drawn.
        top: values above are not shown, so that a first spike does not flatten the rest.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        nothing = '<p class="quiet">nothing was logged</p>'
        return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{nothing}</figure>'
    values = [value for line in lines for _, value in line.points] + ([target] if target is not None else [])
    low, high = min(values), max(values)
    if top is not None and top > low:
        high = min(high, top)
    room = (high - low or abs(high) or 1.0) * 0.06
    low, high = low - room, high + room
    last_step = max(line.points[-1][0] for line in lines) or 1.0

    def x_of(step: float) -> float:
        return LEFT + step / last_step * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return TOP + (high - min(max(value, low), high)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in ticks(low, high):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for step in ticks(0.0, last_step):
        x = x_of(step)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="{anchor}">{_short(step)}</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">step</text>'
    )
    if target is not None:
        y = y_of(target)
        parts.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for line in lines:
        points = [(x_of(step), y_of(value)) for step, value in _thin(line.points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline class="{"faint" if line.faint else "line"}" style="stroke:{line.color}" points="{path}"/>'
        )
        if line.marked:
            parts += [
                f'<circle class="dot" style="fill:{line.color}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points
            ]
    parts.append("</svg>")
    keys = "".join(
        f'<span class="key"><i style="background:{line.color}"></i>{escape(line.label)} '
        f"<b>{line.points[-1][1]:.2f}</b></span>"
        for line in lines
        if not line.faint
    )
    if target is not None:
        keys += f'<span class="key"><i class="dashed"></i>target <b>{_short(target)}</b></span>'
    caption = f"<figcaption>{escape(title)} <small>{escape(y_label)}</small></figcaption>"
    return f'<figure class="chart">{caption}<div class="keys">{keys}</div>{"".join(parts)}</figure>'


def draw_loss(curves: Mapping[str, Series]) -> str:
    """Training loss, raw and smoothed, with the validation loss."""
    train, val = curves.get("train/loss", ()), curves.get("val/loss", ())
    smoothed = smooth(train)
    lines = [
        Line("raw", train, "var(--series-1)", faint=True),
        Line("training", smoothed, "var(--series-1)"),
        Line("validation", val, "var(--series-2)", marked=len(val) <= 30),
    ]
    # The first steps of a fresh model lie far above all that follows.
    settled = sorted(value for _, value in train)
    top = settled[int(0.99 * (len(settled) - 1))] if settled else None
    return draw_chart("Loss", lines, "cross entropy of an answered token, nats", top=top)


def draw_compression(curves: Mapping[str, Series], target: float | None) -> str:
    """Tokens per concept, of text and of image tokens, while training and in evaluation mode."""
    lines = []
    for color, kind in (("var(--series-1)", "text"), ("var(--series-2)", "image")):
        train, val = curves.get(f"train/compression_{kind}", ()), curves.get(f"val/compression_{kind}", ())
        lines.append(Line(f"{kind}, training", smooth(train), color, faint=bool(val)))
        lines.append(Line(kind, val, color, marked=len(val) <= 30))
    settled = sorted(value for line in lines for _, value in line.points)
    top = max(settled[int(0.98 * (len(settled) - 1))], 1.5 * (target or 0)) if settled else None
    return draw_chart("Compression", lines, "tokens per concept; bold: in evaluation mode", target=target, top=top)


def _thin(points: Series) -> Series:
    """At most MAX_POINTS points: the mean of each stretch, and the last point as it is."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / MAX_POINTS)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in stretches]
    return (*means[:-1], points[-1])


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
