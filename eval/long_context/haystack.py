"""A context of a given length with needles at given depths.

In: needles, and lines to fill with. Out: the parts of a prompt that is as long as fits, never longer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from data.assets.draws import Draws
from data.sample import Part
from eval.long_context.measure import Measure

Build = Callable[[int], tuple[Part, ...]]  # how many pieces of filler -> the prompt's parts
MOST = 1 << 24  # pieces of filler


@dataclass(frozen=True)
class Needle:
    """What is put between two lines."""

    depth: float  # share of the filler before it, in [0, 1]
    text: str
    image: str | None = None  # shown right after the text


def fill(build: Build, images: Mapping[str, bytes], measure: Measure, room: int, name: str) -> tuple[int, int]:
    """The most pieces of filler that fit into `room` tokens, and the tokens of the prompt with them.

    Raises:
        ValueError: what must be in it does not fit by itself.
    """
    bare = measure.count(build(0), images)
    if bare > room:
        raise ValueError(
            f"{name}: the question and what it asks for take {bare} tokens, but {room} are left for the prompt at this length; "
            "choose a longer one"
        )
    low, low_tokens, high = 0, bare, MOST
    guess = max(1, (room - bare) // 16)  # a line has about 16 tokens
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        tokens = measure.count(build(guess), images)
        each = max(1.0, (tokens - bare) / guess)
        if tokens <= room:
            low, low_tokens = guess, tokens
            guess += max(1, int((room - tokens) / each))
        else:
            high = guess
            guess -= max(1, int((tokens - room) / each))
    return low, low_tokens


class Filler:
    """Lines drawn as they are needed, always in the same order."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._lines: list[str] = []

    def first(self, count: int) -> list[str]:
        """The first so many."""
        while len(self._lines) < count:
            self._lines.append(next(self._source))
        return self._lines[:count]


def lay(lines: Sequence[str], needles: Sequence[Needle]) -> tuple[tuple[Part, ...], tuple[float, ...]]:
    """Lines with needles between them, and each needle's true depth: the share of the lines' signs that stand before it."""
    ends = [0, *accumulate(map(len, lines))]
    total = ends[-1] or 1
    ordered = sorted(range(len(needles)), key=lambda one: needles[one].depth)
    parts: list[Part] = []
    depths = [0.0] * len(needles)
    text, place = "", 0
    for one in ordered:
        needle = needles[one]
        while place < len(lines) and ends[place] / total < needle.depth:
            text += lines[place]
            place += 1
        depths[one] = round(ends[place] / total, 4)
        text += needle.text
        if needle.image is not None:
            parts += [Part(text=text), Part(image=needle.image)]
            text = "\n"
    text += "".join(lines[place:])
    return (*parts, Part(text=text)), tuple(depths)


def around(draws: Draws, depth: float, count: int) -> list[float]:
    """Depths in rising order whose mean is about `depth`, spread as far as that leaves room."""
    half = min(depth, 1 - depth)
    low = depth - half
    return [low + 2 * half * (place + draws.below(1000) / 1000) / count for place in range(count)]
