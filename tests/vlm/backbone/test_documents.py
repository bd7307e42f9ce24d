import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm.backbone import Documents

lengths_of_documents = st.lists(st.integers(1, 90), min_size=1, max_size=40)


def test_index_tensors_describe_the_row() -> None:
    documents = Documents.from_lengths([3, 1, 2])
    assert documents.starts.tolist() == [0, 3, 4]
    assert documents.ends.tolist() == [3, 4, 6]
    assert documents.document_of_token.tolist() == [0, 0, 0, 1, 2, 2]
    assert documents.offset_in_document.tolist() == [0, 1, 2, 0, 0, 1]
    assert documents.is_start.tolist() == [True, False, False, True, True, False]
    assert documents.boundaries.tolist() == [0, 3, 4, 6]


@pytest.mark.parametrize("lengths", [[], [3, 0], [-1]])
def test_a_row_without_tokens_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        Documents.from_lengths(lengths)


@given(lengths_of_documents)
def test_buckets_give_each_token_a_place_of_its_own_in_order_of_its_document(lengths: list[int]) -> None:
    documents = Documents.from_lengths(lengths)
    buckets = documents.buckets
    place = buckets.place
    assert sum(count * width for count, width in buckets.shapes) == buckets.num_places
    assert sum(count for count, _ in buckets.shapes) == len(lengths)
    assert len(set(place.tolist())) == documents.num_tokens
    within = torch.diff(place)[~documents.is_start[1:]]
    assert (within == 1).all()
    starts = torch.cat([torch.arange(count) * width + first for first, count, width in _blocks(buckets.shapes)])
    assert set(place[documents.starts].tolist()) == set(starts.tolist())


@given(lengths_of_documents)
def test_padding_stays_below_a_quarter_or_sixteen_rows(lengths: list[int]) -> None:
    buckets = Documents.from_lengths(lengths).buckets
    remaining = sorted(lengths, reverse=True)
    for count, width in buckets.shapes:
        members, remaining = remaining[:count], remaining[count:]
        assert all(width <= max(1.25 * length, length + 16) for length in members)


def test_documents_of_one_length_need_no_padding_and_one_call() -> None:
    buckets = Documents.from_lengths([7] * 5).buckets
    assert buckets.shapes == ((5, 7),)
    assert buckets.is_packed


def _blocks(shapes: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int]]:
    first, out = 0, []
    for count, width in shapes:
        out.append((first, count, width))
        first += count * width
    return out
