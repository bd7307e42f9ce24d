from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import Order, chance, refuse_other_order


@settings(max_examples=10, deadline=None)
@given(
    counts=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    lanes=st.integers(1, 5),
    window=st.integers(30, 300),
    seed=st.integers(0, 3),
)
def test_every_record_comes_once_in_each_epoch(counts: list[int], lanes: int, window: int, seed: int) -> None:
    order = Order([[count] for count in counts], [1.0] * len(counts), seed, lanes, window)
    period = 1000 * lanes  # after this many draws every source has had the same whole number of them in each lane
    windows = -(-1000 // window)
    drawn = [[draw for w in range(windows) for draw in order.draws(lane, w)][:1000] for lane in range(lanes)]
    for source, count in enumerate(counts):
        times = Counter(draw.index for lane in drawn for draw in lane if draw.source == source)
        share = sum(times.values())
        assert share == pytest.approx(period / len(counts), abs=lanes)
        assert set(times) <= set(range(count))
        assert max(times.values()) - (min(times.values()) if len(times) == count else 0) <= 1


def test_a_window_is_a_pure_function() -> None:
    a, b = (Order([[50], [20]], [0.7, 0.3], 5, 4, 37, augmentations=3) for _ in range(2))
    late = a.draws(3, 900)
    assert [b.draws(lane, w) for lane in range(4) for w in range(3)] == [
        a.draws(lane, w) for lane in range(4) for w in range(3)
    ]
    assert b.draws(3, 900) == late


def test_the_window_does_not_change_the_draws_of_a_lane() -> None:
    short, long = Order([[50], [20]], [0.7, 0.3], 5, 4, 10), Order([[50], [20]], [0.7, 0.3], 5, 4, 60)
    assert [draw for w in range(6) for draw in short.draws(1, w)] == long.draws(1, 0)


def test_the_mixture_has_exactly_the_asked_shares() -> None:
    order = Order([[10], [600, 400], [37]], [0.5, 0.15, 0.35], 0, 3, 1000)
    for lane in range(3):
        assert Counter(draw.source for draw in order.draws(lane, 5)) == {0: 500, 1: 150, 2: 350}


def test_every_copy_is_drawn_about_equally_often() -> None:
    copies = Counter(draw.augmentation for draw in Order([[10]], [1.0], 0, 1, 4000, augmentations=3).draws(0, 0))
    assert sorted(copies) == [0, 1, 2, 3]
    assert all(880 < number < 1120 for number in copies.values())
    assert {draw.augmentation for draw in Order([[10]], [1.0], 0, 1, 400).draws(0, 0)} == {0}
    mixed = Order([[10], [10]], [0.5, 0.5], 0, 1, 400, augmentations=[0, 2]).draws(0, 0)
    assert {(draw.source, draw.augmentation) for draw in mixed} == {(0, 0), (1, 0), (1, 1), (1, 2)}


def test_seeds_lanes_and_epochs_differ() -> None:
    order = Order([[500]], [1.0], 0, 1, 500)
    first = [draw.index for draw in order.draws(0, 0)]
    assert sorted(first) == sorted(draw.index for draw in order.draws(0, 1)) == list(range(500))
    assert first != [draw.index for draw in order.draws(0, 1)]
    assert first != [draw.index for draw in Order([[500]], [1.0], 1, 1, 500).draws(0, 0)]
    assert first != list(range(500))


def test_randomness_is_the_same_on_every_machine() -> None:
    assert chance(0, "mixture", 1).integers(0, 1000, 4).tolist() == [337, 983, 656, 819]


@pytest.mark.parametrize(
    ("counts", "weights", "words"),
    [([], [], "at least one"), ([3, 0], [1, 1], "at least one"), ([3], [0], "above 0"), ([3, 3], [1, 1e-5], "0.00%")],
)
def test_sources_that_would_never_be_drawn_are_refused(counts: list[int], weights: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Order([[count] for count in counts], [float(weight) for weight in weights], 0, 1, 10)


def test_a_place_in_other_data_is_refused_with_what_differs() -> None:
    refuse_other_order({"seed": "1", "lanes": "4"}, {"lanes": "4", "seed": "1"})
    with pytest.raises(ValueError, match="seed was 1, is 2; source 1 was absent, is x"):
        refuse_other_order({"seed": "1", "lanes": "4"}, {"lanes": "4", "seed": "2", "source 1": "x"})
