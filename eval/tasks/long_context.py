"""Long context: seven kinds of question, at any length. `long/KIND@TOKENS` is a task, `long` and `long@TOKENS` are groups.

Made offline by eval/long_context, after RULER and MM-NIAH. A length is that of prompt and answer together, in tokens of the
tokenizer that is given: `vlm eval` gives the model's own, elsewhere it is the demo's.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

from eval.answers import first_line
from eval.group_scores import needle_scores
from eval.long_context.measure import Measure
from eval.long_context.questions import DEPTHS, PICTURES, TEXT, LongContext
from eval.metrics import contains_answer, count_accuracy
from eval.outcome import Outcome
from eval.task import Task
from eval.truth import Extract, Metric, Truth, against_answers, from_text

LENGTHS = (1024, 4096, 16384)
SHORTEST = 512
MAX_NEW_TOKENS = {"retrieve-many": 40, "aggregate": 32}  # others: 16
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = re.compile(rf"\d+|\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)


def numbers(text: str) -> str | None:
    """The whole numbers of a text in their order, parted by commas; None if there is none."""
    found = [str(_WORDS.index(word)) if word in _WORDS else word for word in _NUMBER.findall(text.lower())]
    return ", ".join(found) or None


def in_one_line(text: str) -> str | None:
    """All of the answer: a list may stand on several lines."""
    return " ".join(text.split()) or None


def share_named(answer: str, truth: Truth) -> float:
    """Share of what was asked for that the answer holds, as whole words; order and what else it holds do not count."""
    return fmean(contains_answer(answer, one) for one in truth.meta["wanted"])


def count_match(answer: str, truth: Truth) -> float:
    """Share of pictures whose count is right, at its place in the list (MM-NIAH's soft accuracy)."""
    return count_accuracy(answer.split(", "), truth.meta["wanted"])


def guesses(truth: Truth) -> Sequence[str]:
    """What somebody would say who knows which names there are."""
    found: Sequence[str] = truth.meta["guesses"]
    return found


def by_depth(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The scores by depth of what was asked for, and how long the prompts were."""
    metas = [one.truth.meta for one in outcomes]
    length = int(metas[0]["length"])
    told: dict[str, Any] = {"length": length, "mean_tokens": fmean(meta["tokens"] for meta in metas)}
    told["counted_by"] = metas[0]["counted_by"]
    placed = [(one.score, meta["depth"]) for one, meta in zip(outcomes, metas, strict=True) if "depth" in meta]
    if placed:
        scores, depths = zip(*placed, strict=True)
        grid = needle_scores(scores, [length] * len(scores), depths, (length,), 1 / DEPTHS)
        told["scores"] = [row[0] for row in grid["grid"]]
        told["counts"] = [row[0] for row in grid["counts"]]
    return {"by_depth": told}


CONTAINS = (from_text(first_line), against_answers(contains_answer))
SCORED: dict[str, tuple[Extract, Metric]] = {
    "retrieve-one": CONTAINS,
    "retrieve-many": (from_text(in_one_line), share_named),
    "trace": CONTAINS,
    "aggregate": (from_text(in_one_line), share_named),
    "answer": CONTAINS,
    "picture-needle": CONTAINS,
    "picture-count": (from_text(numbers), count_match),
}
KINDS = (*TEXT, *PICTURES)
GUESSED = ("trace", "aggregate", "answer", *PICTURES)


def long_task(kind: str, length: int) -> Task:
    """The task of one kind at one length.

    Raises:
        ValueError: the length is too short for any question.
    """
    if length < SHORTEST:
        raise ValueError(f"long/{kind}@{length}: the length must be at least {SHORTEST} tokens")
    new_tokens = MAX_NEW_TOKENS.get(kind, 16)
    extract, metric = SCORED[kind]
    return Task(
        name=f"long/{kind}@{length}",
        questions=LongContext(kind, length, new_tokens),
        extract=extract,
        metric=metric,
        summary=by_depth,
        guesses=guesses if kind in GUESSED else None,
        max_new_tokens=new_tokens,
    )


def named(name: str) -> tuple[str, ...] | None:
    """The tasks that `long/KIND@TOKENS`, `long/KIND` or `long@TOKENS` stands for; None if the name is no such.

    Raises:
        ValueError: what stands behind the @ is no number.
    """
    before, at, length = name.partition("@")
    kinds = {"long": KINDS, **{f"long/{kind}": (kind,) for kind in KINDS}}.get(before)
    if kinds is None:
        return None
    if at and not (length.isascii() and length.isdecimal() and len(length) < 10):
        raise ValueError(f"task {name!r}: behind the @ stands a length in tokens, such as {before}@4096")
    lengths = (int(length),) if at else LENGTHS
    return tuple(f"long/{kind}@{tokens}" for tokens in lengths for kind in kinds)


def at_length(name: str) -> Task | None:
    """The task `long/KIND@TOKENS`; None if the name is no such."""
    found = named(name)
    if found != (name,):
        return None
    kind, _, length = name.removeprefix("long/").partition("@")
    return long_task(kind, int(length))


def measured(task: Task, measure: Callable[[], Measure]) -> Task:
    """The task with its lengths counted by `measure`; a task of no such length stays as it is."""
    if not isinstance(task.questions, LongContext):
        return task
    return replace(task, questions=replace(task.questions, measure=measure))


TASKS = {
    name: partial(long_task, *(kind, length))
    for length in LENGTHS
    for kind in KINDS
    for name in [f"long/{kind}@{length}"]
}
GROUPS = {name: named(name) or () for name in ("long", *(f"long/{kind}" for kind in KINDS))}
