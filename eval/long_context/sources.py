"""What contexts are made of: lines of glosses, names, pictures. All of it is committed (data/assets)."""

from collections.abc import Iterator
from functools import lru_cache
from math import gcd

from data.assets.draws import Draws
from data.assets.pieces import Pieces
from data.assets.records import SceneCanvas
from data.assets.scenes import Concept, Vocabulary, clashes, vocabulary

PEOPLE = (
    *("Ada", "Bruno", "Clara", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karla", "Levin"),
    *("Mira", "Nils", "Olga", "Paul", "Rosa", "Simon", "Tilda", "Viktor"),
)
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "grey")
GOODS = frozenset(("fruit", "vegetable", "prepared food", "sweet food", "asian food"))
ANIMALS = frozenset(("mammal", "bird", "marine", "bug", "reptile", "amphibian"))


@lru_cache(maxsize=1)
def lines() -> tuple[str, ...]:
    """Every gloss as one line of a dictionary."""
    return tuple(f"{row['label']}: {row['gloss']}.\n" for row in Pieces().glosses())


@lru_cache(maxsize=1)
def concepts() -> Vocabulary:
    """Things that have a picture of the tests: a style that training never showed."""
    return vocabulary(Pieces().rows("emoji"), "test")


@lru_cache(maxsize=1)
def pictures() -> dict[str, bytes]:
    """`STYLE/KEY.webp` -> the stored picture."""
    return Pieces().members("emoji")


@lru_cache(maxsize=1)
def canvas() -> SceneCanvas:
    """Draws scenes."""
    return SceneCanvas(pictures())


def filler(draws: Draws) -> Iterator[str]:
    """All lines in an order of their own, again and again."""
    known = lines()
    place, step = draws.below(len(known)), 1 + draws.below(len(known) - 1)
    while gcd(step, len(known)) > 1:
        step += 1
    while True:
        yield known[place]
        place = (place + step) % len(known)


def some(draws: Draws, count: int, kinds: frozenset[str] | None = None) -> list[Concept]:
    """So many concepts, of some subcategories or any, no two of which share a word."""
    found: list[Concept] = []
    for one in draws.shuffled(concepts().concepts):
        is_right_kind = kinds is None or one.subcategory in kinds
        if is_right_kind and not clashes(one.label, (other.label for other in found)):
            found.append(one)
        if len(found) == count:
            return found
    raise ValueError(f"there are {len(found)} things without a word in common, {count} are needed")
