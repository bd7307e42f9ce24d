"""The curves of `vlm bench conversion`: training and validation loss of each variant against steps."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from vlm.bench.conversion import Continued
from vlm.bench.plot import OURS, OURS_MARKS, PEERS, PEERS_MARKS, check_target

SOURCE_COLOR = "#1d2329"
PANELS = (("training", "loss in training"), ("validation", "loss on the validation text, chunker alone"))


def draw(results: Sequence[Continued], path: Path) -> None:
    """Write the drawing: means over seeds, and between the least and the greatest a band."""
    check_target(path)
    draw_figure(results).savefig(path, dpi=160)


def draw_figure(results: Sequence[Continued]) -> Any:
    """The drawing as matplotlib's Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(PANELS), squeeze=False)[0]
    names = list(dict.fromkeys(one.variant for one in results))
    colors = dict(zip(names, (SOURCE_COLOR, *OURS, *PEERS), strict=False))
    marks = dict(zip(names, ("", *OURS_MARKS, *PEERS_MARKS), strict=False))
    for axis, (kind, title) in zip(axes, PANELS, strict=True):
        for name in names:
            curves = [getattr(one, kind) for one in results if one.variant == name]
            steps = sorted(set.intersection(*({step for step, _ in curve} for curve in curves)))
            at = [[dict(curve)[step] for curve in curves] for step in steps]
            middle = [mean(values) for values in at]
            every = max(1, len(steps) // 8)
            axis.plot(steps, middle, color=colors[name], label=name, linewidth=1.6, marker=marks[name], markevery=every)
            axis.fill_between(steps, [min(v) for v in at], [max(v) for v in at], color=colors[name], alpha=0.12, lw=0)
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_xlabel("steps after the source's last")
        axis.grid(axis="y", color="#e2dfd9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("nats for a token")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
