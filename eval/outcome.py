"""How a model fared on one question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.truth import Truth


@dataclass(frozen=True)
class Outcome:
    """One question as the model fared on it."""

    truth: Truth
    place: int  # in task.questions()
    output: str | list[float]  # as answered
    answer: str | None  # as read; None if it could not be
    score: float  # in [0, 1]
    group: str  # what is one draw for the interval
    tied: bool = False  # choose: the best candidate was not alone; the first of them is taken
    truncated: bool = False  # the answer reached max_new_tokens without an end

    @property
    def id(self) -> str:
        """Of the question."""
        return self.truth.id

    @property
    def targets(self) -> tuple[str, ...]:
        """What counts as right."""
        return self.truth.targets

    @property
    def category(self) -> str | None:
        """Of the question, within its benchmark."""
        return self.truth.category


def from_answers(
    figures: Callable[[Sequence[str | None], Sequence[str]], Mapping[str, Any]],
) -> Callable[[Sequence[Outcome]], Mapping[str, Any]]:
    """Figures of the answers and the first right answers, as the summary of a task."""

    def summary(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
        return figures([one.answer for one in outcomes], [one.targets[0] for one in outcomes])

    return summary
