"""A few questions of a task, for a quick look: spread over all of it, in whole groups where the score is one of groups."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from data.sample import Question
from eval.task import Task

SEED = "limit-1"


def spread(total: int, count: int) -> list[int]:
    """`count` of `total` places (all, if there are no more), one in each of as many equal stretches, drawn by a hash.

    Shards are often sorted by kind, so the places must be spread; and kinds often take turns (a yes and a no, answers 1 to 5), so
    equal steps would meet the same kind each time.
    """
    count = min(count, total)
    edges = [number * total // count for number in range(count + 1)] if count else [0]
    return [start + _draw(start, end) for start, end in pairwise(edges)]


def _draw(start: int, end: int) -> int:
    digest = hashlib.sha256(f"{SEED}|{start}|{end}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % (end - start)


def limited(task: Task, limit: int) -> Task:
    """The task with `limit` of its questions, as `spread` draws them, the same each time.

    Whole groups, where the score is one of groups, such as all rotations of a question.
    """

    def some() -> Sequence[Question]:
        questions = task.questions()
        if task.headline is not None and task.group_by is not None:
            return whole_groups(questions, task.group_by, limit)
        return [questions[place] for place in spread(len(questions), limit)]

    return replace(task, questions=some)


def whole_groups(
    questions: Sequence[Question], group_by: Callable[[Question], str | None], limit: int
) -> list[Question]:
    """Groups, spread over all, that have about `limit` questions together; at least one group."""
    members: dict[str, list[int]] = {}
    for place in range(len(questions)):
        question = questions[place]
        members.setdefault(group_by(question) or f"id {question.id}", []).append(place)
    groups = list(members.values())
    count = max(1, min(len(groups), limit * len(groups) // len(questions)))
    chosen = [place for number in spread(len(groups), count) for place in groups[number]]
    return [questions[place] for place in sorted(chosen)]
