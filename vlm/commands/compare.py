"""`vlm compare`: runs of one kind beside runs of another, seeds of each, score by score and loss by loss."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.compare import Comparison

LOSSES = "val/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs of one kind")
    parser.add_argument(
        "--with", dest="others", nargs="+", required=True, type=Path, metavar="RUN", help="and those of the other kind"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Read what the runs left, compare, print."""
    named = [path.resolve() for path in (*args.runs, *args.others)]
    if again := [str(path) for path in named if named.count(path) > 1]:
        raise ValueError(f"{again[0]} is named more than once; a run counts once, or its seed would count as several")
    found = [*score_comparisons(args.runs, args.others), *loss_comparisons(args.runs, args.others)]
    if not found:
        raise ValueError(
            f"{args.runs[0]} and {args.others[0]} have no score and no validation loss in common; "
            "give folders that `vlm demo`, `vlm eval` or `vlm fit` wrote"
        )
    if args.json:
        rows = [asdict(one) | {"difference": one.difference} for one in found]
        print(json.dumps({"first": list(map(str, args.runs)), "second": list(map(str, args.others)), "results": rows}))
        return 0
    print(table(found))
    print(f"\nfirst: {', '.join(map(str, args.runs))}\nsecond: {', '.join(map(str, args.others))}")
    print("± is the standard deviation over runs; the interval is of the difference, and covers what stands beside it.")
    return 0


def score_comparisons(first: Sequence[Path], second: Sequence[Path]) -> "list[Comparison]":
    """Every benchmark that all runs have a score of."""
    from eval.as_asked import task_as_asked
    from eval.compare import compare_scores
    from eval.tasks import TASKS

    common = set.intersection(*(scored(folder) for folder in (*first, *second)))
    ordered = [*(name for name in TASKS if name in common), *sorted(common - set(TASKS))]
    return [compare_scores(task_as_asked(first[0], name), first, second) for name in ordered]


def scored(folder: Path) -> set[str]:
    """Names of the benchmarks that a run has a score of.

    Raises:
        ValueError: the folder is missing, or its scores cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the folder of a run, such as runs/demo")
    path = folder / "scores.json"
    if not path.exists():
        return set()
    try:
        return set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); evaluate that run again") from error


def loss_comparisons(first: Sequence[Path], second: Sequence[Path]) -> "list[Comparison]":
    """The last validation losses, of the whole and of each source, that all runs have."""
    from eval.compare import compare_figures
    from vlm.inference.curves import read_curves

    last = [{name: points[-1][1] for name, points in read_curves(run).items()} for run in (*first, *second)]
    common = [name for name in last[0] if name.startswith(LOSSES) and name.endswith("loss")]
    common = [name for name in common if all(name in figures for figures in last)]
    split = len(first)
    return [
        compare_figures(name, [one[name] for one in last[:split]], [one[name] for one in last[split:]])
        for name in common
    ]


def table(found: "Sequence[Comparison]") -> str:
    """One row a figure."""
    from vlm.commands.bench import aligned

    head = ("figure", "first", "second", "difference", "95 % interval", "covers")
    rows = [
        (
            one.name,
            spread(one.first),
            spread(one.second),
            f"{one.difference:+.3f}",
            f"[{one.low:+.3f}, {one.high:+.3f}]" if one.covers != "nothing" else "-",
            one.covers,
        )
        for one in found
    ]
    return "\n".join(aligned(head, rows))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    from statistics import mean, stdev

    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
