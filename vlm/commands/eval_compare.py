"""`vlm eval compare A B`: two evaluated models on the same questions, with a paired test."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.paired import PairedTest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "first", type=Path, metavar="A", help="folder of an evaluation (--out, or where the model stands)"
    )
    parser.add_argument("second", type=Path, metavar="B", help="another, of the same tasks")
    parser.add_argument("--tasks", metavar="NAME[,NAME]", help="only these (default: all that both have)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Compare what both answered; needs neither model nor questions."""
    from eval.paired import compare_kept, evaluated

    names = [evaluated(folder) for folder in (args.first, args.second)]
    wanted = [name for name in names[0] if name in names[1]]
    if args.tasks is not None:
        asked = args.tasks.split(",")
        if missing := [name for name in asked if name not in wanted]:
            raise ValueError(
                f"{missing[0]} is not among what both evaluated: {', '.join(wanted) or 'nothing'}; evaluate it first"
            )
        wanted = asked
    if not wanted:
        raise ValueError(
            f"{args.first} evaluated {', '.join(names[0])}, {args.second} {', '.join(names[1])}: no task in common"
        )
    found = [compare_kept(name, args.first, args.second) for name in wanted]
    if args.json:
        rows = [asdict(one) | {"difference": one.difference} for one in found]
        print(json.dumps({"first": str(args.first), "second": str(args.second), "results": rows}, indent=2))
        return 0
    print(*table(found), sep="\n")
    print(
        f"\nA: {args.first}\nB: {args.second}\nThe interval is of the difference of the means, by a bootstrap over groups of questions; p of a "
        "test that flips signs group by group. Questions that only one could answer are left out of both."
    )
    return 0


def table(found: "Sequence[PairedTest]") -> list[str]:
    """A line for each task."""
    from vlm.commands.bench import aligned

    head = ("task", "A", "B", "A - B", "95 % interval", "p", "n", "A better", "B better", "left out")
    rows = [
        (
            one.task,
            f"{one.first:.3f}",
            f"{one.second:.3f}",
            f"{one.difference:+.3f}",
            f"[{one.low:+.3f}, {one.high:+.3f}]",
            f"{one.p:.4f}",
            str(one.n),
            str(one.first_better),
            str(one.second_better),
            str(one.left_out),
        )
        for one in found
    ]
    return aligned(head, rows)
