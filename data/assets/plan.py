"""Plan scenes and the questions about them, so that words alone never tell the answer.

Each label is answered "yes" exactly as often as "no", counts and places are spread evenly, and a target's label is
drawn independently of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from data.assets.draws import Draws
from data.assets.scenes import (
    MAX_COUNT,
    PLACES,
    STRATEGIES,
    Concept,
    Placed,
    Scene,
    Vocabulary,
    background,
    clashes,
    place,
)


@dataclass(frozen=True)
class Planned:
    """A scene and its targets: the concepts in it, and the one that is asked about, which is the first drawn."""

    scene: Scene
    concepts: tuple[Concept, ...]  # of each object, in order; the target first
    strategy: str  # how a negative partner is found for its target

    @property
    def target(self) -> Concept:
        return self.concepts[0]

    @property
    def count(self) -> int:
        return self.concepts.count(self.target)

    @property
    def place(self) -> str:
        return PLACES[self.scene.side][self.scene.objects[0].cell]

    @property
    def distinct(self) -> tuple[Concept, ...]:
        """The concepts, each once."""
        return tuple(dict.fromkeys(self.concepts))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The subcategories of what is shown, each once."""
        return tuple(dict.fromkeys(concept.subcategory for concept in self.concepts))

    def shows(self, concept: Concept) -> bool:
        """Say whether the scene shows the concept, or one whose name shares a word with it."""
        return clashes(concept.label, (shown.label for shown in self.concepts))

    @property
    def places(self) -> list[tuple[Concept, str]]:
        """Each thing and where it is, in reading order."""
        cells = sorted(zip((thing.cell for thing in self.scene.objects), range(len(self.concepts)), strict=True))
        return [(self.concepts[index], PLACES[self.scene.side][cell]) for cell, index in cells]


@dataclass(frozen=True)
class Absence:
    """A question answered "no": `concept` is asked about in scene number `scene`, and is there in scene `partner`."""

    scene: int
    partner: int
    concept: Concept
    strategy: str


def draw_others(draws: Draws, known: Vocabulary, target: Concept, count: int) -> list[Concept]:
    """Draw distinct concepts that share no word with each other or the target; three in ten of them popular ones."""
    chosen = [target]
    while len(chosen) <= count:
        other = draws.choice(known.popular if draws.below(10) < 3 else known.concepts)
        if not clashes(other.label, (concept.label for concept in chosen)):
            chosen.append(other)
    return chosen[1:]


def draw_target(draws: Draws, known: Vocabulary, strategy: str) -> Concept:
    return draws.choice(known.popular if strategy == "popular" else known.concepts)


def plan_objects(name: str, index: int, known: Vocabulary) -> Planned:
    """Plan a scene of 1 to 5 different things (to 4 in two rows); the target's place is uniform."""
    draws = Draws(f"{name}/objects/{index}")
    strategy = STRATEGIES[index % 3]
    side = 2 + draws.below(2)
    target = draw_target(draws, known, strategy)
    found = [target, *draw_others(draws, known, target, draws.below(4 if side == 2 else 5))]
    cells = draws.shuffled(range(side * side))
    return finish(draws, side, [place(draws, thing, cells[i], side) for i, thing in enumerate(found)], found, strategy)


def plan_count(name: str, index: int, known: Vocabulary, copies: int | None = None) -> Planned:
    """Plan a scene of 1 to 5 copies of the target, in one style, and up to 3 other things in three rows."""
    draws = Draws(f"{name}/count/{index}")
    strategy = STRATEGIES[index % 3]
    target = draw_target(draws, known, strategy)
    copies = 1 + draws.below(MAX_COUNT) if copies is None else copies
    found = [target] * copies + draw_others(draws, known, target, draws.below(4))
    style, cells = draws.choice(target.styles), draws.shuffled(range(9))
    things = [place(draws, thing, cells[i], 3, style if thing is target else None) for i, thing in enumerate(found)]
    return finish(draws, 3, things, found, strategy)


def finish(draws: Draws, side: int, things: list[Placed], concepts: list[Concept], strategy: str) -> Planned:
    return Planned(Scene(side, background(draws), tuple(things)), tuple(concepts), strategy)


def plan_absences(name: str, planned: Sequence[Planned]) -> list[Absence]:
    """Ask for each scene's target in another scene, where it is missing; each scene gets at most one such question.

    random and popular: a scene that shows nothing of its subcategory (a popular target is one by choice).
    adversarial: a scene that does. What finds no scene is left out, and its positive question with it.
    """
    draws = Draws(f"{name}/absences")
    free = draws.shuffled(range(len(planned)))
    absences = []
    order = sorted(range(len(planned)), key=lambda i: planned[i].strategy != "adversarial")
    for partner in order:
        target, strategy = planned[partner].target, planned[partner].strategy
        for at, scene in enumerate(free):
            shown = planned[scene].concepts
            is_near = any(concept.subcategory == target.subcategory for concept in shown)
            if clashes(target.label, (concept.label for concept in shown)) or (strategy == "adversarial") != is_near:
                continue
            absences.append(Absence(scene, partner, target, strategy))
            del free[at]
            break
    return sorted(absences, key=lambda absence: absence.scene)
