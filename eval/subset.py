"""A few questions of a task, for a quick look: evenly spread, in whole groups where the score is one of groups."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from data.sample import Question
from eval.task import Task


def limited(task: Task, limit: int) -> Task:
    """The task with `limit` of its questions, evenly spread: shards are often sorted by kind.

    Whole groups, where the score is one of groups, such as all rotations of a question.
    """

    def some() -> Sequence[Question]:
        questions = task.questions()
        if task.headline is not None and task.group_by is not None:
            return whole_groups(questions, task.group_by, limit)
        count = min(limit, len(questions))
        return [questions[place * len(questions) // count] for place in range(count)]

    return replace(task, questions=some)


def whole_groups(
    questions: Sequence[Question], group_by: Callable[[Question], str | None], limit: int
) -> list[Question]:
    """Groups, evenly spread, that have about `limit` questions together; at least one group."""
    members: dict[str, list[int]] = {}
    for place in range(len(questions)):
        question = questions[place]
        members.setdefault(group_by(question) or f"id {question.id}", []).append(place)
    groups = list(members.values())
    count = max(1, min(len(groups), limit * len(groups) // len(questions)))
    chosen = [place for number in range(count) for place in groups[number * len(groups) // count]]
    return [questions[place] for place in sorted(chosen)]
