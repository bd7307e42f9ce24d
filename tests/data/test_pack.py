import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pack import pack


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
