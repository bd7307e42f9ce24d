import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.epochs import BLOCK, BigEpochs, SmallEpochs, epochs_of
from data.order import Order


def drawn_by_epoch(epochs: BigEpochs | SmallEpochs, records: int, lanes: int, number: int) -> list[list[int]]:
    """The records of whole epochs, each lane asked by itself."""
    turns = np.arange(-(-number * records // lanes))
    found: list[list[int]] = [[] for _ in range(number)]
    for lane in range(lanes):
        for turn, record in zip(turns.tolist(), epochs.indices(lane, turns).tolist(), strict=True):
            if (epoch := (turn * lanes + lane) // records) < number:
                found[epoch].append(record)
    return found


@pytest.mark.parametrize("lanes", range(1, 25))
@pytest.mark.parametrize("shards", [(7,) * 41 + (0, 90), (1999,), (BLOCK * 2 + 1, 3)], ids=str)
def test_an_epoch_of_a_big_source_loses_and_repeats_nothing(shards: tuple[int, ...], lanes: int) -> None:
    records = sum(shards)
    found = drawn_by_epoch(BigEpochs(3, 1, shards, lanes), records, lanes, 2)
    assert [sorted(epoch) for epoch in found] == [list(range(records))] * 2


@settings(max_examples=30, deadline=None)
@given(records=st.integers(1, 2500), lanes=st.integers(1, 24))
def test_an_epoch_of_a_small_source_loses_and_repeats_nothing(records: int, lanes: int) -> None:
    found = drawn_by_epoch(SmallEpochs(3, 1, records, lanes), records, lanes, 3)
    assert [sorted(epoch) for epoch in found] == [list(range(records))] * 3


def test_draws_can_be_asked_for_in_any_order() -> None:
    shards = [100] * 60
    whole = BigEpochs(0, 0, shards, 4).indices(2, np.arange(4000))
    again = BigEpochs(0, 0, shards, 4)
    pieces = [again.indices(2, np.arange(first, first + 500)) for first in range(3500, -1, -500)]
    assert np.concatenate(pieces[::-1]).tolist() == whole.tolist()


def test_epochs_lanes_seeds_and_sources_of_a_big_source_differ() -> None:
    shards = [100] * 60

    def first(seed: int = 0, source: int = 0, lane: int = 0, start: int = 0) -> list[int]:
        return BigEpochs(seed, source, shards, 4).indices(lane, np.arange(start, start + 50)).tolist()

    orders = [first(), first(seed=1), first(source=1), first(lane=1), first(start=1500)]
    assert len({tuple(order) for order in orders}) == 5


@pytest.mark.parametrize("size", [100, 2000, 10_000])
def test_a_lane_reads_from_few_shards_at_a_time(size: int) -> None:
    shards = [size] * (400_000 // size)
    epochs = BigEpochs(0, 0, shards, 8)
    for start in (0, 7_777, 40_000):
        records = epochs.indices(3, np.arange(start, start + 4000))
        # The draws of half a block come from one block or two.
        assert len(np.unique(records // size)) <= 2 * (BLOCK // size + 2)


def test_a_lane_of_a_big_source_mixes_its_block_well() -> None:
    epochs = BigEpochs(0, 0, [10_000] * 40, 8)
    steps = np.diff(epochs.indices(0, np.arange(3000)))
    assert (steps == 1).mean() < 0.01


@pytest.mark.parametrize("shards", [[10_000] * 10_000, [100_000_000]], ids=["many", "one"])
def test_a_hundred_million_records_need_the_memory_of_their_shards(shards: Sequence[int]) -> None:
    order = Order([shards, [300, 200]], [0.7, 0.3], 0, 24, 512)
    tracemalloc.start()
    try:
        drawn = [draw for lane in range(24) for window in (0, 10**6) for draw in order.draws(lane, window)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20
    assert len({draw.index for draw in drawn if draw.source == 0}) > 9_000


def test_only_sources_with_a_shard_for_each_lane_or_too_many_records_are_read_by_shards() -> None:
    assert isinstance(epochs_of(0, 0, [1000] * 24, 24), BigEpochs)
    assert isinstance(epochs_of(0, 0, [2**20, 1], 24), BigEpochs)
    for shards in ([1000] * 23, [10] * 40, [0] * 50 + [5000], [2**20]):
        assert isinstance(epochs_of(0, 0, shards, 24), SmallEpochs)
