"""Questions about scenes: words alone tell nothing."""

from collections import Counter
from functools import cache

import pytest

from data.assets.expand import plan_scenes
from data.assets.pieces import Pieces
from data.assets.plan import Planned, plan_absences, plan_count
from data.assets.records import is_count
from data.assets.scenes import STRATEGIES, clashes, vocabulary

pytestmark = pytest.mark.long


@cache
def training_plan() -> tuple[Planned, ...]:
    return tuple(plan_scenes("train", vocabulary(Pieces().rows("emoji"), "train")))


def test_each_label_is_asked_as_often_where_it_is_as_where_it_is_not() -> None:
    planned = training_plan()
    absences = plan_absences("scenes/train", planned)
    there = Counter(planned[absence.partner].target.label for absence in absences)
    missing = Counter(absence.concept.label for absence in absences)
    assert there == missing
    assert len(absences) > 0.9 * len(planned)


def test_what_is_said_to_be_missing_is_missing() -> None:
    planned = training_plan()
    for absence in plan_absences("scenes/train", planned):
        shown = [concept.label for concept in planned[absence.scene].concepts]
        assert not clashes(absence.concept.label, shown)


def test_adversarial_scenes_show_something_of_the_same_kind_and_others_do_not() -> None:
    planned = training_plan()
    for absence in plan_absences("scenes/train", planned):
        kinds = {concept.subcategory for concept in planned[absence.scene].concepts}
        assert (absence.concept.subcategory in kinds) == (absence.strategy == "adversarial")


def test_strategies_come_in_thirds() -> None:
    counts = Counter(absence.strategy for absence in plan_absences("scenes/train", training_plan()))
    assert set(counts) == set(STRATEGIES)
    assert min(counts.values()) > 0.25 * counts.total()


def test_popular_labels_are_the_ones_shown_most() -> None:
    planned = training_plan()
    shown = Counter(concept.key for plan in planned for concept in set(plan.concepts))
    names = {concept.key for concept in vocabulary(Pieces().rows("emoji"), "train").popular}
    others = max(count for key, count in shown.items() if key not in names)
    assert min(shown[key] for key in names) > others


def test_counts_and_places_are_spread_evenly() -> None:
    counting = Counter(plan.count for index, plan in enumerate(training_plan()) if is_count(index))
    placing = Counter(
        (plan.scene.side, plan.place) for index, plan in enumerate(training_plan()) if not is_count(index)
    )
    assert max(counting.values()) < 1.2 * min(counting.values())
    assert sum(count for (side, _), count in placing.items() if side == 2) > 0.45 * placing.total()
    assert max(placing[3, place] for side, place in placing if side == 3) < 0.2 * placing.total()


def test_how_many_things_there_are_does_not_tell_the_count() -> None:
    concepts = vocabulary(Pieces().rows("emoji"), "train")
    others = {copies: Counter[int]() for copies in range(1, 6)}
    for index in range(500):
        plan = plan_count("test", index, concepts, copies=1 + index % 5)
        others[plan.count][len(plan.concepts) - plan.count] += 1
    assert all(set(found) == {0, 1, 2, 3} for found in others.values())
