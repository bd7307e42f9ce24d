"""What scoring needs of a question: everything but its pictures and its words.

In: a Question. Out: a `Truth`, small enough to keep for every question of a benchmark. Extraction, metrics and summaries
get nothing else, so that scoring can be done again without pictures and without a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from data.image_header import upright_size
from data.sample import Question

_KEPT = 300_000  # scores of pairs: numbers, yes and no come again and again, also in what chance would score
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Truth:
    """A question without its content."""

    id: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer: int | None = None  # index into choices
    category: str | None = None
    group: str | None = None  # of the record: circular or paired scoring
    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1 in pixels of the first picture
    meta: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ()  # (width, height) of the pictures in reading order; only beside a box

    @property
    def targets(self) -> tuple[str, ...]:
        """What counts as right: the chosen choice, or else any of the answers."""
        if self.choices and self.answer is not None:
            return (self.choices[self.answer],)
        return self.answers

    @property
    def lettered(self) -> dict[str, str]:
        """The choices by letter, in order: {"A": ..., "B": ...}."""
        return dict(zip(LETTERS, self.choices, strict=False))

    @property
    def letter(self) -> str | None:
        """The letter of the right choice; None for an open question."""
        return None if self.answer is None or not self.choices else LETTERS[self.answer]


def truth_of(question: Question) -> Truth:
    """What is true of a question.

    Raises:
        BadRecord: it has a box, and a picture whose size cannot be read.
    """
    shown = [part.image for part in question.content if part.image is not None] if question.box is not None else []
    return Truth(
        id=question.id,
        answers=question.answers,
        choices=question.choices,
        answer=question.answer,
        category=question.category,
        group=question.group,
        box=question.box,
        meta=question.meta,
        sizes=tuple(upright_size(question.images[name]) for name in shown),
    )


Extract = Callable[[str, Truth], str | None]  # raw answer -> answer; None where it cannot be read
Metric = Callable[[str, Truth], float]  # answer -> score in [0, 1]


def from_text(extract: Callable[[str], str | None]) -> Extract:
    """An extraction that looks at the text alone, as a task takes it."""

    def extract_from_text(text: str, truth: Truth) -> str | None:
        return extract(text)

    extract_from_text.__name__ = _name(extract)
    return extract_from_text


def against_answers(metric: Callable[[str, Sequence[str]], float]) -> Metric:
    """A metric of an answer and all right answers, as a task takes it."""
    once = lru_cache(maxsize=_KEPT)(metric)

    def score_against_answers(answer: str, truth: Truth) -> float:
        return once(answer, truth.targets)

    score_against_answers.__name__ = _name(metric)
    return score_against_answers


def against_first_answer(metric: Callable[[str, str], float]) -> Metric:
    """A metric of an answer and the one right answer, as a task takes it."""
    once = lru_cache(maxsize=_KEPT)(metric)

    def score_against_first_answer(answer: str, truth: Truth) -> float:
        return once(answer, truth.targets[0])

    score_against_first_answer.__name__ = _name(metric)
    return score_against_first_answer


def letter_match(answer: str, truth: Truth) -> float:
    """1 if the answer is the letter of the right choice."""
    return float(answer == truth.letter)


def letters(truth: Truth) -> tuple[str, ...]:
    """What somebody would guess among who knows only how many choices there are."""
    return tuple(truth.lettered)


def _name(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
