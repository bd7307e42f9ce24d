"""Draws are the same everywhere, and fair."""

from collections import Counter

import pytest

from data.assets.draws import Draws, bucket


def test_draws_are_the_same_on_every_machine() -> None:
    draws = Draws("frozen")
    assert [draws.below(1000) for _ in range(6)] == [210, 245, 322, 271, 277, 170]
    assert bucket("frozen", 1000) == 777


def test_shuffling_keeps_every_item() -> None:
    assert sorted(Draws("any").shuffled(range(50))) == list(range(50))


def test_a_sample_has_different_items() -> None:
    assert len(set(Draws("any").sample(range(20), 8))) == 8


def test_draws_are_uniform() -> None:
    draws = Draws("uniform")
    counts = Counter(draws.below(5) for _ in range(10_000))
    # Five standard deviations of a binomial count (10,000 draws, one in five).
    assert all(abs(count - 2000) < 5 * 40 for count in counts.values())


def test_nothing_can_be_drawn_below_zero() -> None:
    with pytest.raises(ValueError, match="count of at least 1, got 0"):
        Draws("any").below(0)
