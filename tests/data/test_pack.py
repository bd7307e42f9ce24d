import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pack import _best_fit, pack


@given(lengths=st.lists(st.integers(1, 50), max_size=60), row_tokens=st.integers(50, 200))
def test_every_item_is_in_one_row_and_no_row_is_too_long(lengths: list[int], row_tokens: int) -> None:
    rows = pack(lengths, row_tokens)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[item] for item in row) <= row_tokens for row in rows)
    assert rows == pack(lengths, row_tokens)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_packing_needs_few_rows(lengths: list[int]) -> None:
    # Items of at most half a row: all rows but the last ones are at least two thirds full.
    assert len(pack(lengths, 100)) <= sum(lengths) / (100 * 2 / 3) + 2


def test_short_items_fill_all_rows_evenly() -> None:
    lengths = [20 + i % 31 for i in range(1700)]
    tokens = [sum(lengths[item] for item in row) for row in pack(lengths, 4096)]
    assert len(tokens) == -(-sum(lengths) // 4096)
    assert max(tokens) - min(tokens) <= 20


@given(lengths=st.lists(st.integers(1, 100), min_size=8, max_size=30), num_rows=st.integers(1, 8))
def test_as_many_rows_as_asked_for(lengths: list[int], num_rows: int) -> None:
    rows = pack(lengths, 100, num_rows)
    assert len(rows) >= num_rows
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(row for row in rows)


def test_items_that_cannot_be_packed_are_refused() -> None:
    assert pack([], 10) == []
    with pytest.raises(ValueError, match="1 to 10 tokens, got 3 to 11"):
        pack([3, 11], 10)
    with pytest.raises(ValueError, match="2 items cannot fill 3 rows"):
        pack([3, 4], 10, 3)


def lengths_of_a_mixture(number: int, cap: int) -> list[int]:
    """Lognormal with the mean of 615 and the 95th percentile of 1,771 tokens that mixtures of captions and pages have."""
    return np.random.default_rng(0).lognormal(6.05, 0.876, number).clip(8, cap).astype(int).tolist()


@pytest.mark.parametrize(("window", "waste"), [(512, 0.02), (1024, 0.015)])
def test_a_window_wastes_less_than_two_per_cent_at_the_asked_speed(window: int, waste: float) -> None:
    lengths = lengths_of_a_mixture(20_480, 4096)
    assert np.mean(lengths) == pytest.approx(615, abs=15)
    assert np.percentile(lengths, 95) == pytest.approx(1771, abs=60)
    windows = [lengths[start : start + window] for start in range(0, len(lengths), window)]
    seconds = []
    for _ in range(3):
        start = time.process_time()
        num_rows = sum(len(pack(one, 4096)) for one in windows)
        seconds.append(time.process_time() - start)
    assert 1 - sum(lengths) / (num_rows * 4096) <= waste
    # 540,000/s were measured; a third of it says that nothing has become slow, on whatever machine.
    assert len(lengths) / min(seconds) > 180_000


def test_even_spreading_costs_no_row() -> None:
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 900, 200).tolist()
        best = _best_fit(sorted(range(200), key=lambda i: -lengths[i]), lengths, 1000)
        assert len(pack(lengths, 1000)) == len(best)


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=40))
def test_best_fit_is_what_a_search_through_all_rows_finds(lengths: list[int]) -> None:
    decreasing = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows: list[list[int]] = []
    for item in decreasing:
        left = [(100 - sum(lengths[i] for i in row), number) for number, row in enumerate(rows)]
        fitting = [(room, number) for room, number in left if room >= lengths[item]]
        if fitting:
            rows[min(fitting)[1]].append(item)
        else:
            rows.append([item])
    assert _best_fit(decreasing, lengths, 100) == rows
