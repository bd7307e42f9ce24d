"""A task of ours as a table that VLMEvalKit reads: LMUData/<name>.tsv.

In: a Task. Out: tab-separated lines with index, pictures as base64, question, A, B, .., answer, category, l2-category, split. A
table with A and B is scored by the kit's CustomMCQ; one without is only answered. The kit writes the prompt itself and reads
the answer by its own rules, so its scores are not those of `vlm eval`.
"""

import base64
import csv
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.sample import Question
from eval.export.lmms_eval import task_name
from eval.plan import make_plan
from eval.task import Task
from eval.truth import LETTERS, Truth

# What pandas, which reads the table, takes for nothing.
_NOTHING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"} | {
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
}


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
    _check_texts(task, [asked.truth for asked in plan.asked])
    try:
        folder.mkdir(parents=True, exist_ok=True)
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


def _check_texts(task: Task, truths: Sequence[Truth]) -> None:
    """Refuse choices that would be others once the table is read: gone, or numbers written in another way."""
    for place in range(max(len(truth.choices) for truth in truths)):
        texts = {truth.choices[place]: truth.id for truth in truths if place < len(truth.choices)}
        gone = [text for text in texts if text.strip() in _NOTHING]
        if gone:
            raise ValueError(
                f"task {task.name}: question {texts[gone[0]]!r} has the choice {gone[0]!r}, which the kit's reader takes for "
                "no choice; write it in another way"
            )
        numbers = all(_is_number(text) for text in texts)
        changed = [text for text in texts if not re.fullmatch(r"0|-?[1-9][0-9]*", text)]
        if any(place >= len(truth.choices) for truth in truths):  # an empty cell makes 3 to 3.0
            changed = list(texts)
        if numbers and changed:
            raise ValueError(
                f"task {task.name}: all choices {LETTERS[place]} are numbers, and the kit's reader would write "
                f"{changed[0]!r} of question {texts[changed[0]]!r} in another way; add a unit to it"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
