import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import ORDER_VERSION, Draw, Order, chance, refuse_other_order

PINNED = (2, [(0, 18, 1), (0, 34, 3), (0, 10, 1), (0, 3, 2), (1, 99, 3), (0, 35, 0)])


def lane_draws(order: Order, lane: int, number: int) -> list[Draw]:
    draws: list[Draw] = []
    for window in itertools.count():
        if len(draws) >= number:
            return draws[:number]
        draws += order.draws(lane, window)
    raise AssertionError


@settings(max_examples=10, deadline=None)
@given(
    shards=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=40), min_size=1, max_size=3),
    lanes=st.integers(1, 5),
    window=st.integers(30, 300),
    seed=st.integers(0, 3),
)
def test_every_record_comes_once_in_each_epoch(shards: list[list[int]], lanes: int, window: int, seed: int) -> None:
    order = Order(shards, [1.0] * len(shards), seed, lanes, window)
    period = 1000 * lanes  # after this many draws every source has had the same whole number of them in each lane
    drawn = [lane_draws(order, lane, 1000) for lane in range(lanes)]
    for source, count in enumerate(map(sum, shards)):
        times = Counter(draw.index for lane in drawn for draw in lane if draw.source == source)
        share = sum(times.values())
        assert share == pytest.approx(period / len(shards), abs=lanes)
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
    short, long = (Order([[50], [20]], [0.7, 0.3], 5, 4, window) for window in (10, 60))
    assert lane_draws(short, 1, 200) == lane_draws(long, 1, 200)


def test_a_lane_begins_with_a_small_window_and_lanes_plan_at_different_times() -> None:
    order = Order([[50], [20]], [0.7, 0.3], 5, 4, 80)
    sizes = [[len(order.draws(lane, window)) for window in range(4)] for lane in range(4)]
    assert sizes == [[10, 20 + 20 * lane, 80, 80] for lane in range(4)]


def test_the_mixture_has_exactly_the_asked_shares() -> None:
    order = Order([[10], [600, 400], [37]], [0.5, 0.15, 0.35], 0, 3, 1000)
    for lane in range(3):
        drawn = lane_draws(order, lane, 3000)
        for start in range(0, 3000, 1000):
            assert Counter(draw.source for draw in drawn[start : start + 1000]) == {0: 500, 1: 150, 2: 350}


@pytest.mark.parametrize("lanes", [1, 7, 24, 96])
def test_at_any_place_ten_thousand_draws_have_the_asked_shares_to_within_a_hundredth(lanes: int) -> None:
    weights = [0.5, 0.29, 0.15, 0.05, 0.01]
    order = Order([[100]] * 5, weights, 0, lanes, 700)
    number = 24_000 // lanes
    # The lanes take turns.
    sources = np.array([[draw.source for draw in lane_draws(order, lane, number)] for lane in range(lanes)]).T.ravel()
    for source, weight in enumerate(weights):
        counts = np.concatenate([[0], (sources == source).cumsum()])
        shares = (counts[10_000:] - counts[:-10_000]) / 10_000
        assert np.abs(shares - weight).max() < 0.005


def test_every_copy_is_drawn_about_equally_often() -> None:
    order = Order([[10]], [1.0], 0, 1, 4000, augmentations=3)
    copies = Counter(draw.augmentation for draw in lane_draws(order, 0, 4000))
    assert sorted(copies) == [0, 1, 2, 3]
    assert all(880 < number < 1120 for number in copies.values())
    assert {draw.augmentation for draw in lane_draws(Order([[10]], [1.0], 0, 1, 400), 0, 400)} == {0}
    mixed = lane_draws(Order([[10], [10]], [0.5, 0.5], 0, 1, 400, augmentations=[0, 2]), 0, 400)
    assert {(draw.source, draw.augmentation) for draw in mixed} == {(0, 0), (1, 0), (1, 1), (1, 2)}


def test_seeds_and_epochs_differ() -> None:
    drawn = [draw.index for draw in lane_draws(Order([[1500]], [1.0], 0, 1, 500), 0, 3000)]
    first, second = drawn[:1500], drawn[1500:]
    assert sorted(first) == sorted(second) == list(range(1500))
    other = [draw.index for draw in lane_draws(Order([[1500]], [1.0], 1, 1, 500), 0, 1500)]
    assert len({tuple(order) for order in (first, second, other, list(range(1500)))}) == 4


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    # Should this fail, raise ORDER_VERSION: places saved before would mean other records.
    order = Order([[50], [20] * 80], [0.7, 0.3], 5, 4, 37, augmentations=3)
    drawn = [(draw.source, draw.index, draw.augmentation) for draw in order.draws(3, 2)[:6]]
    assert (ORDER_VERSION, drawn) == PINNED


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
