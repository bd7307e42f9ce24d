"""A question of any length: what is asked, and what its context is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.assets.draws import Draws
from data.sample import Part
from eval.long_context import sources
from eval.long_context.haystack import Filler, Needle, lay

TEXT_FIRST = "Read this text. A question about it stands at the end.\n\n"
Laid = tuple[tuple[Part, ...], tuple[float, ...]]  # the context's parts; the depth of each needle that is asked for


@dataclass(frozen=True)
class Draft:
    """A question whose context has not got its length yet."""

    lay: Callable[[int], Laid]  # how many pieces of filler -> the context
    question: str
    answers: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)  # `wanted`: all that the answer must hold; `guesses`
    images: Mapping[str, bytes] = field(default_factory=dict)

    def build(self, pieces: int) -> tuple[Part, ...]:
        """The whole prompt with so many pieces of filler."""
        parts, _ = self.lay(pieces)
        first, *middle = parts
        opening = Part(text=f"{TEXT_FIRST}{first.text}")
        closing = f"\nQuestion: {self.question}"
        if not middle:
            return (Part(text=f"{opening.text}{closing}"),)
        return (opening, *middle[:-1], Part(text=f"{middle[-1].text}{closing}"))


def in_glosses(draws: Draws, needles: Sequence[Needle], asked: Sequence[int]) -> Callable[[int], Laid]:
    """Needles among lines of a dictionary.

    Args:
        asked: which of the needles the question is about.
    """
    filler = Filler(sources.filler(draws))

    def laid(pieces: int) -> Laid:
        parts, depths = lay(filler.first(pieces), needles)
        return parts, tuple(depths[one] for one in asked)

    return laid
