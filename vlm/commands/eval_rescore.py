"""`vlm eval rescore RUN`: the kept answers of a finished run read and scored again, without model, questions or pictures."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that `vlm eval` wrote")
    parser.add_argument("--tasks", metavar="NAME[,NAME]", help="only these (default: all that are finished there)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON instead of a table")
    parser.epilog = (
        "After a change of how answers are read or compared. The right answers are those of the time of the run; after a change of "
        "those run `vlm eval` again: answers that are kept are not asked for anew."
    )


def run(args: argparse.Namespace) -> int:
    """Score, write result.json and scores.json, print; 1 if questions had failed."""
    from eval.as_asked import finished, task_as_asked
    from eval.report import scores_table, write_scores
    from eval.run import rescore_kept
    from eval.score import Result
    from vlm.commands.eval import read_json
    from vlm.commands.folders import require_writable

    if not args.run.is_dir():
        raise ValueError(f"{args.run} is no folder; give one that `vlm eval` wrote")
    listed = list(read_json(args.run / "scores.json"))
    there = sorted(finished(args.run), key=lambda name: (listed.index(name) if name in listed else len(listed), name))
    if not there:
        raise ValueError(
            f"no finished evaluation in {args.run}; make one: vlm eval --model FOLDER --tasks NAME --out {args.run}"
        )
    wanted = there if args.tasks is None else chosen(args.tasks.split(","), there, args.run)
    require_writable(args.run, "RUN")
    tasks = [task_as_asked(args.run, name) for name in wanted]
    before = {name: _kept(args.run, name) for name in there}
    results = {task.name: rescore_kept(args.run, task) for task in tasks}
    write_scores(args.run / "scores.json", {name: Result(**before[name]) for name in there} | results)
    if args.json:
        scores = json.loads((args.run / "scores.json").read_text(encoding="utf-8"))
        print(json.dumps({name: scores[name] for name in results}, indent=2, ensure_ascii=False))
    else:
        print(scores_table(results))
        moved = [name for name, one in results.items() if one.score != before[name]["score"]]
        print()
        for name in moved:
            print(f"{name}: was {before[name]['score']:.3f}")
        print(f"scores: {args.run / 'scores.json'}" + ("" if moved else " (no score has changed)"))
    return 1 if any(one.failed for one in results.values()) else 0


def chosen(names: Sequence[str], there: Sequence[str], run: Path) -> list[str]:
    """The finished tasks of these names; a group stands for those of its members that are there.

    Raises:
        ValueError: a name has none.
    """
    from eval.tasks import GROUPS
    from eval.tasks.long_context import named

    found: list[str] = []
    if not (names := [name.strip() for name in names if name.strip()]):
        raise ValueError(f"--tasks names none; there are: {', '.join(there)}")
    for name in names:
        members = [name] if name in there else [one for one in GROUPS.get(name) or named(name) or () if one in there]
        if not members:
            raise ValueError(f"{name} has no finished evaluation in {run}; there are: {', '.join(there)}")
        found += members
    return list(dict.fromkeys(found))


def _kept(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name / "result.json"
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        result["score"] + 0.0
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is not what an evaluation writes ({error}); evaluate {name} again") from error
    return result
