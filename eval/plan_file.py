"""asked.jsonl: a plan as a run keeps it, so that its answers are scored again without the questions and their pictures.

One line per question: what is true of it, and the keys of its answers. The first line says what the plan hangs on.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.plan import Asked, Plan, prompt_hash
from eval.predictions import write_atomically
from eval.task import Task
from eval.truth import Truth

FILE_NAME = "asked.jsonl"


def write_plan(place: Path, plan: Plan) -> None:
    """Keep a plan in a task's folder, unless it is there already."""
    text = "".join(f"{json.dumps(line)}\n" for line in _lines(plan))
    path = place / FILE_NAME
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def read_plan(place: Path, task: Task) -> Plan:
    """The plan of the last run in this folder, with no questions to ask.

    Raises:
        ValueError: there is none, it cannot be read, or the task asks in another way now.
    """
    path = place / FILE_NAME
    if not path.is_file():
        raise ValueError(f"no run of task {task.name} in {place}: {FILE_NAME} is missing; evaluate it first")
    try:
        head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        plan = Plan(
            task=task,
            questions=(),
            asked=tuple(parse_asked(line) for line in lines),
            fingerprint=head["answerer"],
            prompt_hash=head["prompt_hash"],
            questions_hash=head["questions_hash"],
            skipped=tuple(head["skipped"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what an evaluation writes ({error}); evaluate task {task.name} again"
        ) from error
    if plan.prompt_hash != prompt_hash(task):
        raise ValueError(
            f"task {task.name} was asked with another prompt, mode, rule or length than it has now ({path}); "
            "give the same options, or evaluate it again"
        )
    return plan


def _lines(plan: Plan) -> Iterator[dict[str, Any]]:
    yield {
        "answerer": plan.fingerprint,
        "prompt_hash": plan.prompt_hash,
        "questions_hash": plan.questions_hash,
        "skipped": list(plan.skipped),
    }
    yield from map(asked_line, plan.asked)


def asked_line(one: Asked) -> dict[str, Any]:
    """What is asked and true of one question, for JSON."""
    truth = {name: value for name, value in asdict(one.truth).items() if value}
    # 0 is a right choice as good as another.
    truth |= {} if one.truth.answer is None else {"answer": one.truth.answer}
    return {"place": one.place, "key": one.key, "blind_key": one.blind_key, "group": one.group, "truth": truth}


def parse_asked(line: dict[str, Any]) -> Asked:
    """The reverse of `asked_line`."""
    told = dict(line["truth"])
    for name in ("answers", "choices", "box"):
        if name in told:
            told[name] = tuple(told[name])
    if "sizes" in told:
        told["sizes"] = tuple((width, height) for width, height in told["sizes"])
    return Asked(line["place"], Truth(**told), line["key"], line["blind_key"], line["group"])
