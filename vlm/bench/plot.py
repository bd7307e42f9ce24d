"""Draw measurements of inference as the paper's Fig. 5 does: prefill at the left, decoding at the right.

In: what `vlm bench prefill --json` and `vlm bench decode --json` print. Out: an SVG, PNG or PDF file; each line is a
model's speed relative to the plain MoE against length, and a thin one what the cost model predicts.
"""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm.bench.models import BASELINE, PEER

KINDS = {"prefill": ("Prefill", "tokens of a prompt"), "decode": ("Decoding", "tokens of keys and values")}
PREDICTED = "predicted by the cost model"
COUNTS, NUMBERS = ("batch", "length"), ("seconds", "spread", "tokens_per_s", "speed", "predicted")
MORE_NUMBERS: dict[str, tuple[str, ...]] = {"prefill": (), "decode": ("p95_s", "kv_bytes", "kv_bytes_predicted")}
SUFFIXES = (".svg", ".png", ".pdf")
# Okabe and Ito's colours, for all kinds of sight; ours by hue, transformers' grey, and no two markers alike.
OURS, OURS_MARKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), "osD^"
PEERS, PEERS_MARKS = ("#8a8f94", "#4d5358"), "vP"


def check_target(path: Path) -> None:
    """Refuse, before anything is measured, a file that could not be drawn.

    Raises:
        ValueError: its ending is unknown, or its folder is missing.
        ImportError: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a drawing ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("drawing needs the extra [plots]: pip install conceptvlm[plots]")


def read_measurements(files: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The rows of saved measurements by kind; several files of a kind are put together.

    Raises:
        ValueError: a file holds no such measurement, or two hold the same one.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        try:
            saved = json.loads(file.read_text())
            kind, rows = saved["bench"], saved["results"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} holds no measurement of `vlm bench prefill --json` or decode") from error
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{file} is a measurement of {kind!r}; what can be drawn is {', '.join(KINDS)}")
        _check_rows(file, kind, rows)
        known = {_place(row) for row in found.get(kind, [])}
        for row in rows:
            if _place(row) in known:
                raise ValueError(f"{file}: {row['model']}, {row['batch']} x {row['length']}, is in another file too")
        found.setdefault(kind, []).extend(rows)
    return {kind: sorted(found[kind], key=_place_in_table) for kind in KINDS if kind in found}


def _check_rows(file: Path, kind: str, rows: Any) -> None:
    """Refuse results that are not as `vlm bench` prints them.

    Raises:
        ValueError: names the file, the result and what it needs.
    """
    needs: dict[str, tuple[str, Callable[[Any], bool]]] = {"model": ("a name", lambda value: isinstance(value, str))}
    needs |= dict.fromkeys(COUNTS, ("a whole number above 0", lambda value: type(value) is int and 0 < value < 2**63))
    needs |= dict.fromkeys((*NUMBERS, *MORE_NUMBERS[kind]), ("a number, 0 or above", _is_number))
    needs["predicted"] = ("a number above 0", lambda value: _is_number(value) and value > 0)
    needs["compression"] = ("a number or null", lambda value: value is None or _is_number(value))
    told = "give the file as `vlm bench --json` printed it"
    if not isinstance(rows, list):
        raise ValueError(f"{file}: results needs to be a list, got {type(rows).__name__}; {told}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{file}: result {number} needs to be an object, got {type(row).__name__}; {told}")
        for name, (needed, is_right) in needs.items():
            if name not in row or not is_right(row[name]):
                came = f"{row[name]!r:.80}" if name in row else "nothing"
                raise ValueError(f"{file}: result {number} needs {needed} as {name}, got {came}; {told}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def draw(measured: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Write the drawing; one panel for each kind and batch."""
    check_target(path)
    draw_figure(measured).savefig(path, dpi=160)


def draw_figure(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """The drawing as matplotlib's Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        (kind, batch, [row for row in rows if row["batch"] == batch])
        for kind, rows in measured.items()
        for batch in sorted({row["batch"] for row in rows})
    ]
    if not panels:
        raise ValueError("nothing was measured, so there is nothing to draw")
    models = list(dict.fromkeys(row["model"] for _, _, rows in panels for row in rows if row["model"] != BASELINE))
    looks = _looks(models)
    figure = Figure(figsize=(4.3 * len(panels) + 0.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (kind, batch, rows) in zip(axes, panels, strict=True):
        _panel(axis, kind, batch, rows, looks)
    shown_values = [row[name] for _, _, rows in panels for row in rows for name in ("speed", "predicted")]
    axes[0].set_ylim(0, 1.08 * max(shown_values))  # of all panels: they share it
    axes[0].set_ylabel(f"times as fast as the {BASELINE}")
    shown = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    ordered = [name for name in (BASELINE, *models, PREDICTED) if name in shown]
    figure.legend(
        [shown[name] for name in ordered],
        ordered,
        loc="outside lower center",
        ncols=min(len(ordered), 1 + len(panels)),
        frameon=False,
    )
    return figure


def _panel(
    axis: Any, kind: str, batch: int, rows: Sequence[Mapping[str, Any]], looks: Mapping[str, tuple[str, str]]
) -> None:
    title, label = KINDS[kind]
    lengths = sorted({row["length"] for row in rows})
    axis.axhline(1, color="#1d2329", linewidth=1, linestyle=(0, (4, 3)), label=BASELINE)
    for model, (color, mark) in looks.items():
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: row["length"])
        if not own:
            continue
        at = [row["length"] for row in own]
        axis.plot(at, [row["speed"] for row in own], color=color, marker=mark, markersize=5, linewidth=1.8, label=model)
        if not model.startswith(PEER):
            axis.plot(at, [row["predicted"] for row in own], color=color, linewidth=1, linestyle=":")
    axis.plot([], [], color="#5f6872", linewidth=1, linestyle=":", label=PREDICTED)
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [_short(length) for length in lengths])
    axis.minorticks_off()
    axis.set_title(f"{title}, batch {batch}", fontsize=11, loc="left")
    axis.set_xlabel(label)
    axis.grid(axis="y", color="#e2dfd9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _looks(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and mark of each model."""
    ours = [model for model in models if not model.startswith(PEER)]
    peers = [model for model in models if model.startswith(PEER)]
    looks = {model: (OURS[place % 4], OURS_MARKS[place % 4]) for place, model in enumerate(ours)}
    return looks | {model: (PEERS[place % 2], PEERS_MARKS[place % 2]) for place, model in enumerate(peers)}


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else f"{length}"


def _place(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["model"], row["batch"], row["length"]


def _place_in_table(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["length"], row["batch"]
