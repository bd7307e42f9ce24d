"""The open shards of all splits, and the journal that is told when one is complete."""

from collections.abc import Sequence
from pathlib import Path

from data.convert.journal import Journal
from data.convert.record import Record
from data.shard_writer import ShardWriter


class Splits:
    """Writes records into the shards of their splits.

    Args:
        names: folders below `out`; "" for `out` itself.
        shard_bytes: size of a shard at most; None: by records alone.
        shard_records: records of a shard; None: by bytes alone.
        journal: says which shards are finished.
    """

    def __init__(
        self, names: Sequence[str], out: Path, shard_bytes: int | None, shard_records: int | None, journal: Journal
    ) -> None:
        self._journal = journal
        finished = [name for name, _ in journal.shards]
        self._writers = {
            name: ShardWriter(out / name, shard_bytes, shard_records, finished.count(name)) for name in names
        }
        self._fresh: dict[str, list[int]] = {name: [] for name in names}  # in open shards, and not in the journal yet

    def add(self, split: str, record: Record, is_new: bool) -> None:
        writer = self._writers[split]
        if writer.is_full(record.members):
            self._close(split, record.number)
        writer.add(record.key, record.members)
        if is_new:
            self._fresh[split].append(record.number)

    def _close(self, split: str, next_number: int) -> None:
        shard = self._writers[split].close()
        if shard is not None:
            self._fresh[split] = []
            fresh = {name: numbers for name, numbers in self._fresh.items() if numbers}
            self._journal.note_shard(split, shard, next_number, fresh)
            self._fresh = {name: [] for name in self._fresh}

    def close(self, total: int) -> None:
        for split in self._writers:
            self._close(split, total)

    def __enter__(self) -> "Splits":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.discard()
