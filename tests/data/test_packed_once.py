import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.faults import FaultLog
from data.image import ImageLayout
from data.loader import ValLoader
from data.packed_once import PackedOnce
from data.row_reader import RowReader
from data.shards import open_shards
from data.source import Source
from data.tokenizer import Tokenizer

Record = tuple[str, dict[str, bytes]]


class Ranks:
    """All ranks of a world, each in a thread, telling each other what they know as processes do."""

    def __init__(self, world: int) -> None:
        self._values: list[Any] = [None] * world
        self._barrier = threading.Barrier(world, timeout=60)

    def exchange(self, rank: int) -> Callable[[Any], list[Any]]:
        def exchange(value: Any) -> list[Any]:
            self._values[rank] = value
            self._barrier.wait()
            return list(self._values)

        return exchange

    def run(self, make: Callable[[int], Any]) -> list[Any]:
        made: list[Any] = [None] * len(self._values)
        errors: list[Exception] = []

        def one(rank: int) -> None:
            try:
                made[rank] = make(rank)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(made))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return made


@pytest.mark.parametrize("is_exchanged", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [8, 101])
def test_every_record_comes_once_and_all_ranks_have_as_many_batches(
    tmp_path: Path,
    tokenizer: Tokenizer,
    layout: ImageLayout,
    make: SimpleNamespace,
    world: int,
    number: int,
    is_exchanged: bool,
) -> None:
    records = [make.picture_record(i) if i % 3 else make.text_record(i, 1 + i * 7 % 40) for i in range(number)]
    sources = [Source("s", open_shards(make.write_records(tmp_path / "s", records)))]
    ranks = Ranks(world)

    def plan(rank: int) -> PackedOnce:
        exchange = ranks.exchange(rank) if is_exchanged else None
        return PackedOnce(RowReader(sources, tokenizer, layout, 120), rank, world, exchange)

    plans = ranks.run(plan)
    reads = [sum(sum(parcel.reads.values()) for parcel in plan.account) for plan in plans]
    assert sum(reads) == (number if is_exchanged else number * world)
    assert len({len(plan) for plan in plans}) == 1
    seen: Counter[str] = Counter()
    for plan in plans:
        parcels = list(plan)
        assert len(parcels) == len(plan)
        for parcel in parcels:
            parcel.batch.check()
            assert len(parcel.batch.ids) <= 120
            if parcel.batch.num_answered:
                seen.update(parcel.batch.sample_ids)
    assert seen == {f"picture-{i}" if i % 3 else f"text-{i}": 1 for i in range(number)}


def test_rows_are_full(tmp_path: Path, tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    records = [make.text_record(i, 1 + i * 7 % 40) for i in range(200)]
    sources = [Source("s", open_shards(make.write_records(tmp_path / "s", records)))]
    plan = PackedOnce(RowReader(sources, tokenizer, None, 400), 0, 1)
    tokens = [len(parcel.batch.ids) for parcel in plan if parcel.batch is not None]
    assert sum(tokens) / len(tokens) > 0.95 * 400


@pytest.mark.parametrize("world", [1, 2])
def test_a_picture_that_cannot_be_decoded_leaves_a_batch_without_a_label_behind(
    tmp_path: Path, tokenizer: Tokenizer, layout: ImageLayout, make: SimpleNamespace, world: int
) -> None:
    records = [make.picture_record(i) for i in range(4)]
    records[2] = (records[2][0], {**records[2][1], "0.png": make.picture(2)[:-40]})
    sources = [Source("s", open_shards(make.write_records(tmp_path / "s", records)))]
    seen: list[str] = []
    for rank in range(world):
        plan = PackedOnce(RowReader(sources, tokenizer, layout, 20), rank, world)
        loader = ValLoader(plan, FaultLog({"s": 4}), 0)
        batches = list(loader)
        assert len(batches) == len(loader) == 4 // world
        for batch in batches:
            batch.check()
            seen += batch.sample_ids if batch.num_answered else ["nothing"]
    assert sorted(seen) == ["nothing", "picture-0", "picture-1", "picture-3"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_many_records_are_looked_through_by_workers_and_give_the_same_plan(
    tmp_path: Path, tokenizer: Tokenizer, make: SimpleNamespace, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.packed_once.FEW", 10)
    records: list[Record] = [make.text_record(i, 1 + i % 20) for i in range(60)]
    records[7] = ("bad", {"json": b"{"})
    sources = [Source("s", open_shards(make.write_records(tmp_path / "s", records)))]
    plan = PackedOnce(RowReader(sources, tokenizer, None, 100), 0, 1, None, num_workers)
    alone = PackedOnce(RowReader(sources, tokenizer, None, 100), 0, 1)
    assert plan.rows == alone.rows
    assert [fault.key for parcel in plan.account for fault in parcel.faults] == ["bad"]
    assert len(plan.account) == max(1, num_workers)


def test_records_that_are_all_bad_are_refused(tmp_path: Path, tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    sources = [Source("the set", open_shards(make.write_records(tmp_path / "s", [("k", {"json": b"{"})])))]
    with pytest.raises(ValueError, match="0 usable records in the set"):
        PackedOnce(RowReader(sources, tokenizer, None, 100), 0, 2)


def test_an_error_on_one_rank_is_the_error_of_all(tmp_path: Path, tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    folder = make.write_records(tmp_path / "s", [make.text_record(0), make.picture_record(1)])
    ranks, errors = Ranks(2), []

    def plan(rank: int) -> None:
        try:
            PackedOnce(
                RowReader([Source("s", open_shards(folder))], tokenizer, None, 100), rank, 2, ranks.exchange(rank)
            )
        except ValueError as error:
            errors.append(str(error))

    ranks.run(plan)
    assert len(errors) == 2
    assert all("no image encoder" in error for error in errors)
