"""A few questions stand for all: of every stretch, of every kind, the same ones each time."""

from collections import Counter

import pytest

from eval.subset import limited, spread
from eval.task import find_task


@pytest.mark.parametrize(("total", "count"), [(0, 5), (1, 1), (7, 3), (100, 10), (500, 100), (836, 100), (20, 30)])
def test_one_place_of_each_stretch_is_drawn(total: int, count: int) -> None:
    places = spread(total, count)
    assert places == spread(total, count)
    assert len(places) == min(total, count)
    for number, place in enumerate(places):
        assert number * total // len(places) <= place < (number + 1) * total // len(places)


def test_all_are_all() -> None:
    assert spread(9, 9) == spread(9, 100) == list(range(9))


@pytest.mark.parametrize(("kinds", "count"), [(2, 100), (5, 100), (5, 10), (10, 50)])
def test_kinds_that_take_turns_are_all_met(kinds: int, count: int) -> None:
    """Equal steps would meet one kind alone."""
    met = Counter(place % kinds for place in spread(500, count))
    assert len(met) >= min(kinds, count) - (1 if count <= 2 * kinds else 0)
    assert max(met.values()) < 2.5 * count / kinds


def test_a_hundred_questions_of_the_demo_have_answers_as_all_have_them() -> None:
    for name in ("demo/counting", "demo/presence"):
        task = find_task(name)
        answers = Counter(question.answer for question in limited(task, 100).questions())
        choices = len(task.questions()[0].choices)
        assert len(answers) == choices
        assert max(answers.values()) < 2 * 100 / choices


def test_a_tenth_of_long_questions_meets_several_depths() -> None:
    depths = {question.meta["depth"] for question in limited(find_task("long/retrieve-one@512"), 10).questions()}
    assert len(depths) >= 4
