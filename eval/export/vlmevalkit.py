"""A task of ours as a table that VLMEvalKit reads: LMUData/<name>.tsv.

In: a Task. Out: tab-separated lines with index, pictures as base64, question, A, B, .., answer, category, l2-category, split. A
table with A and B is scored by the kit's CustomMCQ; one without is only answered. The kit writes the prompt itself and reads
the answer by its own rules, so its scores are not those of `vlm eval`.
"""

import base64
import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.sample import Question
from eval.export.lmms_eval import task_name
from eval.plan import make_plan
from eval.task import Task
from eval.truth import LETTERS, Truth


@dataclass(frozen=True)
class Table:
    """What was written."""

    name: str
    path: Path
    questions: int
    skipped: tuple[str, ...]  # records that could not be used: which, and why


def export_task(task: Task, folder: Path, progress: Callable[[int, int], None] | None = None) -> Table:
    """Write one table.

    Args:
        folder: becomes the kit's LMUData.
        progress: told (questions written, questions in all).

    Raises:
        ValueError: a question without picture or with a box, which the kit cannot take; or a folder that cannot be written.
    """
    plan = make_plan(task, "", 0)
    name = task_name(task)
    most = max(len(asked.truth.choices) for asked in plan.asked)
    extra = ["hint"] if any(asked.truth.meta.get("hint") for asked in plan.asked) else []
    columns = [
        "index",
        "id",
        "image",
        "question",
        *extra,
        *LETTERS[:most],
        "answer",
        "category",
        "l2-category",
        "split",
    ]
    path, partial = folder / f"{name}.tsv", folder / f".{name}.{os.getpid()}.partial"
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore")
            table.writeheader()
            for number, asked in enumerate(plan.asked):
                table.writerow(_row(task, number, plan.questions[asked.place], asked.truth))
                if progress is not None:
                    progress(number + 1, len(plan.asked))
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror or error}); name another folder") from error
    finally:
        partial.unlink(missing_ok=True)
    return Table(name, path, len(plan.asked), plan.skipped)


def _row(task: Task, number: int, question: Question, truth: Truth) -> dict[str, Any]:
    """The question without our prompt: the kit lists the options by itself."""
    where = f"task {task.name}: question {question.id!r} (record {question.key})"
    pictures = [base64.b64encode(question.images[p.image]).decode() for p in question.content if p.image is not None]
    if not pictures:
        raise ValueError(f"{where} has no picture, which VLMEvalKit's tables need; leave it out")
    if not truth.targets:
        raise ValueError(f"{where} has a box for an answer; VLMEvalKit's tables take a choice or a text")
    if len(truth.choices) == 1:
        raise ValueError(f"{where} has one choice only; VLMEvalKit's tables need two or none")
    return {
        "index": number,
        "id": question.id,
        # Several pictures are a list, written as Python writes it.
        "image": pictures[0] if len(pictures) == 1 else str(pictures),
        "question": "\n".join(part.text for part in question.content if part.text),
        "hint": truth.meta.get("hint") or "",
        **truth.lettered,
        "answer": truth.letter or truth.targets[0],
        "category": question.category or task.name,
        "l2-category": truth.meta.get("l2") or question.category or task.name,
        "split": "test",
    }
