"""The tasks of a finished run, each as it was asked: with the prompt and the rule of that time.

In: a folder that an evaluation wrote. Out: a `Task` whose kept answers can be scored again; its questions are not needed.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from eval.plan import prompt_hash
from eval.plan_file import FILE_NAME
from eval.predictions import task_folder
from eval.prompt import shows_options
from eval.task import RULES, Mode, Task, find_task, with_prompt, with_rule
from eval.tasks.shards import shards_task
from eval.tasks.text import text_task


def finished(folder: Path) -> Iterator[str]:
    """The names of the tasks whose result lies below the folder."""
    for path in folder.rglob("result.json"):
        inner = path.parent.relative_to(folder).parts
        # limit-N and benchmarks/step-N: runs of their own within this one.
        nested = inner and (inner[0].startswith("limit-") or inner[0] == "benchmarks")
        if (path.parent / FILE_NAME).is_file() and inner and not nested:
            yield "/".join(inner)


def task_as_asked(folder: str | Path, name: str) -> Task:
    """The task with the prompt and the rule of an evaluation.

    Raises:
        ValueError: there is none, or the task asks in no such way any more.
    """
    place = task_folder(folder, name)
    try:
        kept = json.loads((place / FILE_NAME).read_text(encoding="utf-8").splitlines()[0])["prompt_hash"]
        mode: Mode = json.loads((place / "result.json").read_text(encoding="utf-8"))["details"]["mode"]
    except (OSError, ValueError) as error:
        raise ValueError(f"{place} has no finished evaluation of {name} ({error}); run it again") from None
    except (LookupError, TypeError):
        raise ValueError(
            f"{FILE_NAME} or result.json in {place} is not what an evaluation writes; evaluate {name} again"
        ) from None
    for task in ways(_named(place, name, mode), mode):
        if prompt_hash(task) == kept:
            return task
    raise ValueError(f"{name} in {folder} was asked with a prompt that it does not have now; evaluate it again")


def _named(place: Path, name: str, mode: Mode) -> Task:
    """The task of this name; if there is none, one of the user's shards or texts, from where they were."""
    try:
        return find_task(name)
    except ValueError:
        if mode == "rate":
            return text_task(place, name)
        return shards_task(_source(place) or place, mode, name)


def _source(place: Path) -> str | None:
    try:
        source = json.loads((place / "run.json").read_text(encoding="utf-8")).get("source")
    except (OSError, ValueError, AttributeError):
        return None
    return source if isinstance(source, str) else None


def ways(task: Task, mode: Mode) -> Iterator[Task]:
    """The task as it may have been asked: by each of its prompts, and by each rule of likelihood."""
    variants = [task, *(with_prompt(task, variant) for variant in task.prompts)]
    yield from variants
    if mode == "choose":
        for variant in variants:
            for rule in RULES:
                if rule != "letter" or shows_options(variant.prompt):
                    yield with_rule(variant, rule)
