"""The questions of one kind and one length, made when they are asked for.

In: a kind, a length in tokens, a measure. Out: a sequence of Questions, the same ones each time. Prompt and answer together
take at most that many tokens, and all but a line of them. The measure decides how much filler there is, and by a picture's
slots how many pictures; nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import overload

from data.assets.draws import Draws
from data.sample import Question
from eval.long_context import picture_needles, text_needles
from eval.long_context.draft import Draft
from eval.long_context.haystack import fill
from eval.long_context.measure import Measure, demo_measure
from eval.long_context.picture_needles import FEWEST, MOST, SCENES, TOKENS_EACH

QUESTIONS = 100
DEPTHS = 5  # equal parts of the context; the questions go through them from front to back
TEXT: dict[str, Callable[[Draws, float], Draft]] = {
    "retrieve-one": text_needles.retrieve_one,
    "retrieve-many": text_needles.retrieve_many,
    "trace": text_needles.trace,
    "aggregate": text_needles.aggregate,
    "answer": text_needles.answer,
}
PICTURES: dict[str, Callable[[Draws, float, int], Draft]] = {
    "picture-needle": picture_needles.picture_needle,
    "picture-count": picture_needles.picture_count,
}


@dataclass(frozen=True)
class LongContext:
    """What a task of long context asks. Called, it gives the questions.

    Attributes:
        kind: one of TEXT or PICTURES.
        length: tokens that prompt and answer have room in.
        max_new_tokens: of these, kept for the answer.
        measure: how tokens are counted; asked when the questions are made.
    """

    kind: str
    length: int
    max_new_tokens: int
    measure: Callable[[], Measure] = demo_measure

    def __call__(self) -> "LongQuestions":
        return LongQuestions(self, self.measure())


@dataclass
class LongQuestions(Sequence[Question]):
    """Made one by one, so that a hundred contexts need not be in memory."""

    task: LongContext
    measure: Measure
    _found: dict[int, tuple[int, int]] = field(default_factory=dict)  # pieces of filler and tokens, by number

    def __len__(self) -> int:
        return QUESTIONS

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | Sequence[Question]:
        if isinstance(index, slice):
            return [self._make(number) for number in range(*index.indices(len(self)))]
        return self._make(range(len(self))[index])

    def _make(self, number: int) -> Question:
        kind, length = self.task.kind, self.task.length
        name = f"long/{kind}/{length}/{number}"
        draws = Draws(name)
        row = number * DEPTHS // QUESTIONS
        depth = (
            row + (100 + draws.below(801)) / 1000
        ) / DEPTHS  # not at the rows' edges: a needle stands between two lines
        draft = self._draft(kind, draws, depth)
        room = length - self.task.max_new_tokens
        if number not in self._found:
            self._found[number] = fill(draft.build, draft.images, self.measure, room, name)
        pieces, tokens = self._found[number]
        _, depths = draft.lay(pieces)
        meta = {**draft.meta, "length": length, "tokens": tokens, "counted_by": self.measure.name}
        meta |= {"depth": round(fmean(depths), 4)} if depths else {}
        return Question(
            key=name,
            id=f"{kind}-{length}-{number:03d}",
            content=draft.build(pieces),
            images=draft.images,
            answers=draft.answers,
            category=f"depth {row / DEPTHS:.0%} to {(row + 1) / DEPTHS:.0%}" if depths else None,
            meta=meta,
        )

    def _draft(self, kind: str, draws: Draws, depth: float) -> Draft:
        if kind in TEXT:
            return TEXT[kind](draws, depth)
        return PICTURES[kind](draws, depth, self._pictures(kind))

    def _pictures(self, kind: str) -> int:
        """How many pictures: in half of the room at most, so that text is left around them."""
        from eval.long_context.sources import pictures

        slots = self.measure.count_picture(next(iter(pictures().values()))) if self.measure.layout is not None else 1
        wanted = SCENES if kind == "picture-count" else min(MOST, max(FEWEST, self.task.length // TOKENS_EACH))
        fitting = self.task.length // 2 // slots
        if fitting < 2:
            raise ValueError(
                f"task long/{kind}@{self.task.length}: a picture takes {slots} tokens of this model, and two or more must fit "
                f"into half of the length; choose a length of at least {4 * slots}, such as long/{kind}@{8 * slots}"
            )
        return min(wanted, fitting)
