"""What runs kept: their scores, how each question went, and how the runs differ.

In: folders that `vlm eval` wrote. Out: a `Run` for each. Scores are those of the time of the run; nothing is asked anew, and
neither a model nor a benchmark's shards are needed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.as_asked import finished, task_as_asked
from eval.compare import Comparison, compare_outcomes
from eval.outcome import Outcome
from eval.run import kept_outcomes
from eval.score import Result
from eval.task import Task


@dataclass(frozen=True)
class TaskRun:
    """One task of one run."""

    result: Result
    task: Task | None = None  # as it was asked; None: it is not known here, so its answers cannot be read
    outcomes: tuple[Outcome, ...] = ()
    why: str = ""  # there are no outcomes


@dataclass(frozen=True)
class Run:
    """All tasks of one run, by name."""

    label: str
    folder: Path
    tasks: dict[str, TaskRun] = field(default_factory=dict)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, labelled by the end of their folders' names that tells them apart.

    Raises:
        ValueError: a folder holds no finished task, is named twice, or holds a result that cannot be read.
    """
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        twice = next(folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1)
        raise ValueError(f"{twice} is named twice; name each run once")
    return [Run(label, place, read_tasks(place)) for label, place in zip(labels(places), places, strict=True)]


def labels(places: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as make them different."""
    for count in range(1, max(len(place.parts) for place in places) + 1):
        found = ["/".join(place.parts[-count:]) for place in places]
        if len(set(found)) == len(found):
            break
    return found


def read_tasks(folder: Path) -> dict[str, TaskRun]:
    """The finished tasks of a run, by name.

    Raises:
        ValueError: there is none, or a result cannot be read.
    """
    found = {name: read_task(folder, name) for name in sorted(finished(folder), key=by_length)}
    if not found:
        raise ValueError(
            f"no finished evaluation in {folder}; make one: vlm eval --model FOLDER --tasks NAME --out {folder}"
        )
    return found


def by_length(name: str) -> tuple[str, int]:
    """What sorts 1024 before 16384."""
    before, _, length = name.partition("@")
    return before, int(length) if length.isdecimal() else 0


def read_task(folder: Path, name: str) -> TaskRun:
    """One task's result, and its outcomes where the task is known.

    Raises:
        ValueError: the result cannot be read.
    """
    path = folder / name / "result.json"
    try:
        result = Result(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not what an evaluation writes ({error}); evaluate {name} again") from error
    try:
        task = task_as_asked(folder, name)
        return TaskRun(result, task, tuple(kept_outcomes(folder, task)))
    except ValueError as error:
        return TaskRun(result, why=str(error))


def task_names(runs: Sequence[Run]) -> list[str]:
    """The tasks of any run, in the order in which they are first met."""
    return list(dict.fromkeys(name for run in runs for name in run.tasks))


def less_first(runs: Sequence[Run], run: Run, name: str) -> Comparison | None:
    """How much better a run is than the first; None where they cannot be compared question by question."""
    if run is runs[0] or name not in runs[0].tasks or name not in run.tasks:
        return None
    first, own = runs[0].tasks[name], run.tasks[name]
    if not first.outcomes or not own.outcomes:
        return None
    try:
        return compare_outcomes(name, [own.outcomes], [first.outcomes], [run.label, runs[0].label])
    except ValueError:  # not the same questions
        return None


def category_of(runs: Sequence[Run], name: str) -> str | None:
    """The ability that a task stands for, or None."""
    for run in runs:
        if name in run.tasks:
            told = run.tasks[name]
            found = told.task.category if told.task is not None else told.result.details.get("category")
            return found if isinstance(found, str) else None
    return None
