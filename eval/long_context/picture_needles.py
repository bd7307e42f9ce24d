"""Questions about pictures in a long text: what one of many shows, and how often a thing is in several.

The kinds are those of MM-NIAH (arXiv 2406.07230); wordings, pictures and fillers are our own.
In: draws, the depth of what is asked for, and how many pictures there may be. Out: a Draft.
"""

from data.assets.draws import Draws
from data.assets.plan import draw_others, finish
from data.assets.scenes import MAX_COUNT, place
from eval.long_context import sources
from eval.long_context.draft import Draft, in_glosses
from eval.long_context.haystack import Needle, around

FEWEST, MOST, TOKENS_EACH = 4, 24, 400  # picture-needle: a picture more for so many tokens of length
SCENES = 4  # picture-count


def picture_needle(draws: Draws, depth: float, count: int) -> Draft:
    """What one of several numbered pictures shows."""
    things = sources.some(draws, count)
    places = [depth, *(draws.below(1000) / 1000 for _ in range(count - 1))]
    order = sorted(range(count), key=lambda one: places[one])
    number = {one: place + 1 for place, one in enumerate(order)}
    images, needles = {}, []
    for one, thing in enumerate(things):
        name = f"{number[one] - 1}.webp"
        images[name] = sources.pictures()[f"{draws.choice(thing.styles)}/{thing.key}.webp"]
        needles.append(Needle(places[one], f"Picture {number[one]}:\n", name))
    question = f"What does picture {number[0]} show? Answer with its name alone."
    guesses = sorted(thing.label for thing in things)
    return Draft(
        in_glosses(draws, needles, [0]), question, (things[0].label,), {"guesses": guesses, "pictures": count}, images
    )


def picture_count(draws: Draws, depth: float, count: int) -> Draft:
    """How often a thing is in each of several pictures: a list of counts."""
    known = sources.concepts()
    target = draws.choice(known.concepts)
    images, needles, counts = {}, [], []
    for number, where in enumerate(around(draws, depth, count)):
        copies = 1 + draws.below(MAX_COUNT)
        shown = [target] * copies + draw_others(draws, known, target, draws.below(4))
        cells = draws.shuffled(range(9))
        things = [place(draws, thing, cells[i], 3) for i, thing in enumerate(shown)]
        name = f"{number}.png"
        images[name], _ = sources.canvas().draw(finish(draws, 3, things, shown, "random").scene)
        needles.append(Needle(where, f"Picture {number + 1}:\n", name))
        counts.append(str(copies))
    one = f"How many drawings of {target.label} does each of the {count} pictures show?"
    question = (
        f"{one} Answer with a list such as {[1 + at % MAX_COUNT for at in range(count)]}, in the pictures' order."
    )
    guesses = [str([each] * count) for each in range(1, MAX_COUNT + 1)]
    meta = {"wanted": counts, "guesses": guesses, "pictures": count}
    return Draft(in_glosses(draws, needles, range(count)), question, (f"[{', '.join(counts)}]",), meta, images)
