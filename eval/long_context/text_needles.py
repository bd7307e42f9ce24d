"""Questions about what stands in the text: one needle, several, a chain, what comes most often, facts to be joined.

The kinds are those of RULER (arXiv 2404.06654); wordings, names and fillers are our own.
In: draws and the depth of what is asked for. Out: a Draft.
"""

from itertools import pairwise

from data.assets.draws import Draws
from data.assets.wordings import with_article
from data.sample import Part
from eval.long_context import sources
from eval.long_context.draft import Draft, Laid, in_glosses
from eval.long_context.haystack import Needle, around

BOXES, ASKED = 8, 4  # retrieve-many
CHAINS, HOPS = 2, 4  # trace
COMMON, RARE, BLOCK = (
    3,
    40,
    25,
)  # aggregate: names that come often and seldom; entries in which the common ones are 3 times each
HOUSES = 6  # answer


def retrieve_one(draws: Draws, depth: float) -> Draft:
    """The code of the only box."""
    (thing,), code = sources.some(draws, 1), codes(draws, 1)[0]
    needle = Needle(depth, f"The box with {with_article(thing.label)} on it has the code {code}.\n")
    question = f"Which code has the box with {with_article(thing.label)} on it? Answer with the code alone."
    return Draft(in_glosses(draws, [needle], [0]), question, (code,))


def retrieve_many(draws: Draws, depth: float) -> Draft:
    """The codes of four of eight boxes, in the order in which they are asked for; any order is right."""
    things, numbers = sources.some(draws, BOXES), codes(draws, BOXES)
    places = around(draws, depth, ASKED) + [draws.below(1000) / 1000 for _ in range(BOXES - ASKED)]
    needles = [
        Needle(place, f"The box with {with_article(thing.label)} on it has the code {code}.\n")
        for place, thing, code in zip(places, things, numbers, strict=True)
    ]
    asked = draws.shuffled(range(ASKED))
    names = ", ".join(with_article(things[one].label) for one in asked)
    question = f"Which codes have the boxes with {names} on them? Answer with the {ASKED} codes, parted by commas."
    wanted = [numbers[one] for one in asked]
    return Draft(in_glosses(draws, needles, range(ASKED)), question, (", ".join(wanted),), {"wanted": wanted})


def trace(draws: Draws, depth: float) -> Draft:
    """Who has a key that is handed on four times, while another key is handed on, too."""
    animals = sources.some(draws, CHAINS * (HOPS + 1), sources.ANIMALS)
    keys = draws.sample(sources.COLOURS, CHAINS)
    needles: list[Needle] = []
    for chain, key in enumerate(keys):
        owners = [animal.label for animal in animals[chain * (HOPS + 1) : (chain + 1) * (HOPS + 1)]]
        told = [f"The {key} key is with the {owners[0]}.\n"]
        told += [f"The {giver} gives all it has to the {taker}.\n" for giver, taker in pairwise(owners)]
        places = around(draws, depth if chain == 0 else (1 + draws.below(9)) / 10, HOPS + 1)
        needles += [Needle(place, text) for place, text in zip(places, told, strict=True)]
    question = f"Who has the {keys[0]} key at the end? Answer with one name."
    guesses = sorted(animal.label for animal in animals)
    return Draft(in_glosses(draws, needles, range(HOPS + 1)), question, (animals[HOPS].label,), {"guesses": guesses})


def aggregate(draws: Draws, depth: float | None) -> Draft:
    """The three names that a list holds most often; it is all context, so there is no depth."""
    names = [one.label for one in sources.some(draws, COMMON + RARE)]
    common, rare = names[:COMMON], names[COMMON:]
    told: list[str] = []

    def laid(pieces: int) -> Laid:
        while len(told) < pieces:
            block = common * 3 + [draws.choice(rare) for _ in range(BLOCK - 3 * COMMON)]
            told.extend(draws.shuffled(block))
        return (Part(text=", ".join(told[:pieces]) + ".\n"),), ()

    question = f"Which {COMMON} names does the list hold most often? Answer with the {COMMON} names, parted by commas."
    guesses = [", ".join(draws.sample(sorted(names), COMMON)) for _ in range(4)]
    return Draft(laid, question, (", ".join(common),), {"wanted": common, "guesses": guesses})


def answer(draws: Draws, depth: float) -> Draft:
    """What is sold by the one who keeps an animal: two facts of one of six people, told in two lines of one place."""
    people = draws.sample(sources.PEOPLE, HOUSES)
    animals = [one.label for one in sources.some(draws, HOUSES, sources.ANIMALS)]
    goods = [one.label for one in sources.some(draws, HOUSES, sources.GOODS)]
    places = [depth, *(draws.below(1000) / 1000 for _ in range(HOUSES - 1))]
    needles = [
        Needle(
            place,
            f"{name} keeps {with_article(animal)} behind the house. On market days {name} sells {with_article(good)}.\n",
        )
        for place, name, animal, good in zip(places, people, animals, goods, strict=True)
    ]
    question = f"What is sold by the one who keeps {with_article(animals[0])}? Answer with the name of the thing alone."
    return Draft(in_glosses(draws, needles, [0]), question, (goods[0],), {"guesses": sorted(goods)})


def codes(draws: Draws, count: int) -> list[str]:
    """Different numbers of five digits."""
    found: list[str] = []
    while len(found) < count:
        code = str(10_000 + draws.below(90_000))
        if code not in found:
            found.append(code)
    return found
