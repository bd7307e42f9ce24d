"""A source to shards: two passes, workers that read, one writer that writes in the source's order.

In: a `Format` and an output folder. Out: shards with their `dataset.json`, `faults.jsonl` if there were any, and a summary in which
everything that came in is written, a fault, or left out as asked. The same source gives the same bytes, whatever the number of workers
and however often the run was killed: records are numbered by the source, and only the main process writes, in order.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from data.convert.chunks import chunked
from data.convert.formats import FORMATS, hint, open_format
from data.convert.journal import Journal, fingerprint
from data.convert.record import Fault, Format, Glance, Item, Maker, Record, Wanted
from data.convert.settings import Settings
from data.convert.splits import Splits
from data.convert.survey import Survey, WrongFormat, make_survey
from data.convert.workers import Workers
from data.shard_writer import PART
from data.shards import write_manifest

FAULTS = "faults.jsonl"
TOLD_EVERY = 32  # records
FEW = 10  # faults do not stop a run

Show = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A source, and how it is written.

    Args:
        format: the name of the source's format.
        settings: how it is read.
        out: the folder of the shards; with `val_share`, of two folders `train` and `val`.
        shard_bytes: the size of a shard at most; None: by records alone.
        shard_records: the records of a shard; None: by bytes alone.
        val_share: the share of pictures (of texts, where there are none) held out; None: no split.
        limit: items to read; None: all.
        number_ids: ids are running numbers, not the source's.
        verify: decode each picture.
        max_faults: share of all records above which a run stops; does not decide what is written.
        workers: processes; does not decide what is written either.

    Raises:
        ValueError: a setting that makes no sense.
    """

    format: str
    settings: Settings
    out: Path
    shard_bytes: int | None = 500_000_000
    shard_records: int | None = None
    val_share: float | None = None
    limit: int | None = None
    number_ids: bool = False
    verify: bool = False
    max_faults: float = 0.1
    workers: int = 1

    def __post_init__(self) -> None:
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise ValueError(f"--val must be a share between 0 and 1, got {self.val_share}")
        for name, value in (
            ("--limit", self.limit),
            ("--shard-records", self.shard_records),
            ("--workers", self.workers),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise ValueError(f"--shard-mb must be above 0, got {self.shard_bytes / 1e6:g}")
        if not 0 <= self.max_faults <= 1:
            raise ValueError(f"--max-faults must be a share from 0 to 1, got {self.max_faults}")

    def run(self, show: Callable[[str], Show]) -> dict[str, Any]:
        """Convert, or go on where an earlier run was stopped; returns the summary.

        Args:
            show: begins a new stretch of progress, by its name.

        Raises:
            ValueError: the source is another format, the output cannot be gone on with, or there are too many faults.
            OSError: something cannot be read or written; what is finished stays.
        """
        try:
            source = open_format(self.format, self.settings)
            identity = self._identity(source)
        except ValueError as error:
            raise ValueError(f"{error}{self._hint() if self.format in FORMATS else ''}") from None
        with Journal(self.out, identity) as journal:
            self._verify(journal, show)
            if journal.summary is not None:
                return journal.summary
            maker = Maker(source, self.number_ids, self.verify, self.val_share is not None)
            with Workers(self.workers) as workers:
                survey = self._survey(source, maker, workers, show("reading"))
                self._check_repeated(survey)
                self._write(source, maker, survey, workers, journal, show("writing"))
            return self._finish(survey, journal)

    def _identity(self, source: Format) -> dict[str, Any]:
        """Everything that decides what is written, by the name of its option."""
        return {
            "--from": self.format,
            "--images": None if self.settings.images is None else str(self.settings.images),
            "--captions": None if self.settings.captions is None else str(self.settings.captions),
            "--skip-uncaptioned": self.settings.skip_uncaptioned,
            "--together": self.settings.together,
            "--ask": self.settings.ask,
            "--benchmark": self.settings.benchmark,
            "--shard-mb": None if self.shard_bytes is None else self.shard_bytes / 1e6,
            "--shard-records": self.shard_records,
            "--val": self.val_share,
            "--limit": self.limit,
            "--number-ids": self.number_ids,
            "--verify": self.verify,
            "files": fingerprint(source.files()),
        }

    def _verify(self, journal: Journal, show: Callable[[str], Show]) -> None:
        if journal.shards:
            tell, done, total = show("checking"), 0, sum(shard.bytes for _, shard in journal.shards)
            for size in journal.verify():
                done += size
                tell(done, total)

    def _items(self, source: Format, whole: bool, wanted: Wanted) -> Iterator[Item]:
        for item in source.items(whole, wanted):
            if self.limit is not None and item.number >= self.limit:
                return
            yield item

    def _survey(self, source: Format, maker: Maker, workers: Workers, tell: Show) -> Survey:
        size = source.size()

        def watched(items: Iterable[Item]) -> Iterator[Item]:
            for item in items:
                if size:
                    tell(item.position, size)
                yield item

        def glances(items: Iterable[Item]) -> Iterator[Glance | Fault]:
            for found in workers.map(maker.glance, chunked(items)):
                yield from found

        is_first = True
        try:
            items = watched(self._items(source, self.val_share is not None, Wanted()))
            first = next(items, None)
            is_first = False
            if first is None:
                raise ValueError(f"{', '.join(map(str, self.settings.sources))}: has no records")
            return make_survey(glances(_chain(first, items)))
        except WrongFormat as error:
            raise ValueError(f"--from {self.format}: {error}{self._hint()}") from None
        except ValueError as error:
            raise ValueError(f"{error}{self._hint() if is_first else ''}") from None

    def _check_repeated(self, survey: Survey) -> None:
        """Ids that name pictures, as in LLaVA's mix of 665,000, would make faults of half the records."""
        if len(survey.repeated) > max(FEW, self.max_faults * survey.total):
            raise ValueError(
                f"{len(survey.repeated):,} of {survey.total:,} records have an id that came before, the first is record "
                f"{min(survey.repeated):,}: these ids do not name records; --number-ids gives each its number as id"
            )

    def _hint(self) -> str:
        return hint(self.format, self.settings.sources)

    def _write(
        self, source: Format, maker: Maker, survey: Survey, workers: Workers, journal: Journal, tell: Show
    ) -> None:
        earlier = frozenset(number for numbers in journal.open.values() for number in numbers)
        wanted = Wanted(journal.next, earlier)
        splits = ("",) if self.val_share is None else ("train", "val")
        with Splits(splits, self.out, self.shard_bytes, self.shard_records, journal) as writers:
            first_new = journal.next
            for made in self._made(source, maker, survey, workers, wanted):
                if isinstance(made, Fault):
                    journal.note_fault(made)
                    self._check_rate(survey.total, journal, made)
                else:
                    split = ""
                    if self.val_share is not None:
                        assert made.content is not None
                        split = survey.side(made.content, self.val_share)
                    writers.add(split, made, is_new=made.number >= first_new)
                if made.number % TOLD_EVERY == 0:
                    tell(made.number, survey.total)
            writers.close(survey.total)
            tell(survey.total, survey.total)

    def _made(
        self, source: Format, maker: Maker, survey: Survey, workers: Workers, wanted: Wanted
    ) -> Iterator[Record | Fault]:
        """What becomes of each item that is still to be written; a repeated id is known before the item is read."""
        items = (item for item in self._items(source, True, wanted) if item.number in wanted)
        for found in workers.map(maker.make, chunked(items)):
            for made in found:
                is_repeated = isinstance(made, Record) and made.number in survey.repeated
                yield repeated_id(made) if is_repeated else made

    def _check_rate(self, total: int, journal: Journal, fault: Fault) -> None:
        num_faults = journal.faults.total()
        if num_faults > max(FEW, self.max_faults * total):
            self._write_faults(journal)
            raise ValueError(
                f"{num_faults:,} of {total:,} records are faults, more than --max-faults {self.max_faults:g} allows: "
                f"{counted(journal.faults)}; the last: {fault.where}: {fault.message}; all are in {self.out / FAULTS}"
            )

    def _write_faults(self, journal: Journal) -> None:
        path = self.out / FAULTS
        if not journal.faults:
            path.unlink(missing_ok=True)
            return
        part = self.out / f".{FAULTS}{PART}"
        with part.open("w", encoding="utf-8") as file:
            for fault in journal.noted_faults():
                file.write(json.dumps(fault, ensure_ascii=False) + "\n")
        os.replace(part, path)

    def _refuse_empty(self, split: str, survey: Survey, journal: Journal) -> NoReturn:
        if not split or journal.faults.total() + journal.left_out.total() == survey.total:
            raise ValueError(
                f"none of {survey.total:,} records could be written: {counted(journal.faults + journal.left_out)}"
                + (f"; see {self.out / FAULTS}" if journal.faults else "")
            )
        raise ValueError(
            f"--val {self.val_share} puts none of {survey.total:,} records into {split}; give another share, or more records"
        )

    def _finish(self, survey: Survey, journal: Journal) -> dict[str, Any]:
        """Faults, then the manifests, and last the summary: whoever finds a manifest finds all."""
        self._write_faults(journal)
        splits: dict[str, dict[str, int]] = {}
        for split in ("",) if self.val_share is None else ("train", "val"):
            shards = [shard for name, shard in journal.shards if name == split]
            folder = self.out / split
            if not shards:
                self._refuse_empty(split, survey, journal)
            found = {path.name for path in folder.glob("*.tar")}
            if strange := sorted(found - {shard.name for shard in shards}):
                raise ValueError(
                    f"{folder / strange[0]} is none of this run's shards; move it away, then run this again"
                )
            splits[split or "."] = {
                "records": sum(shard.records for shard in shards),
                "shards": len(shards),
                "bytes": sum(shard.bytes for shard in shards),
            }
        for split in splits:
            write_manifest(self.out / split)
        written = sum(split["records"] for split in splits.values())
        summary: dict[str, Any] = {
            "records": survey.total,
            "written": written,
            "faults": dict(sorted(journal.faults.items())),
            "left_out": dict(sorted(journal.left_out.items())),
            "splits": splits,
        }
        assert survey.total == written + journal.faults.total() + journal.left_out.total()
        journal.note_end(summary)
        return summary


def repeated_id(record: Record) -> Fault:
    name = json.loads(record.members["json"])["id"]
    return Fault(
        record.number,
        record.where,
        "repeated id",
        f"the id {name[:200]!r} came before; ids name one record each; --number-ids gives each record its number instead",
    )


def counted(faults: Counter[str]) -> str:
    return ", ".join(
        f"{number:,} {reason}" for reason, number in sorted(faults.items(), key=lambda one: (-one[1], one[0]))
    )


def _chain(first: Item, rest: Iterator[Item]) -> Iterator[Item]:
    yield first
    yield from rest
