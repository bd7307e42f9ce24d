"""Examine shards: first each as a whole, then their records in parts, by several processes.

In: paths and options. Out: `Findings`. Nothing is written.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from data.doctor.check import ShardCheck, Stretch, check_shard
from data.doctor.findings import Findings, conclude
from data.doctor.flaws import Flaws
from data.doctor.places import Place, find_shards
from data.doctor.record import RecordReader, is_read_at_all
from data.doctor.tally import Tally
from data.doctor.views import view_record
from data.doctor.walk import Span, walk
from data.doctor.workers import Crew
from data.image_layout import ImageLayout
from data.sample import Question, Sample
from data.tokenizer import Tokenizer

DECODED = 1000  # records whose pictures are decoded where not all are
RECORDS_PER_BEAT = 50  # after so many a worker says how far it is, and hears that it is to stop
LARGE_BYTES, MANY_RECORDS = 256 * 2**20, 5000  # from here on the work is worth a progress bar

# Called with what is done and how much there is; gives what is called with (done, total).
Progress = Callable[[str, int], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to examine.

    Args:
        tokenizer: for the counts of tokens.
        layout: how many slots a picture takes; None counts the tokens of texts alone.
        as_questions: every record is a benchmark's; else a record's fields say so.
        row_tokens: of one packed row of training.
        num_workers: processes.
        limit: records at most, from the first on.
        decodes_all: every picture is decoded, else those of a sample.
        num_shown: records to be shown, drawn at random.
        seed: of what is drawn.
    """

    tokenizer: Tokenizer
    layout: ImageLayout | None = None
    as_questions: bool = False
    row_tokens: int = 4096
    num_workers: int = 1
    limit: int | None = None
    decodes_all: bool = False
    num_shown: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number, least in (
            ("row_tokens", self.row_tokens, 2),
            ("num_workers", self.num_workers, 1),
            ("limit", self.limit, 1),
        ):
            if number is not None and number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")

    @property
    def reader(self) -> RecordReader:
        return RecordReader(self.tokenizer, self.layout, self.as_questions, self.row_tokens, self.decodes_all)


@dataclass(frozen=True)
class Part:
    """Records to be read by one process."""

    place: Place
    size: int  # bytes that the shard had when it was checked
    stretch: Stretch
    first: int  # number of its first record among all
    broken: frozenset[str] = frozenset()
    decoded: frozenset[int] = frozenset()  # numbers
    shown: frozenset[int] = frozenset()


@dataclass
class Survey:
    """All shards as wholes, and where each record lies."""

    checks: list[ShardCheck] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    num_records: int = 0

    def locate(self, numbers: Iterable[int]) -> dict[int, tuple[Path, Span]]:
        """The shard of each of the records, and where it lies there; every part is walked once at most."""
        found: dict[int, tuple[Path, Span]] = {}
        for part, wanted in groupby(sorted(set(numbers)), self._part_of):
            left = set(wanted)
            with part.place.path.open("rb", buffering=0) as file:
                for place, span in enumerate(_spans(file.fileno(), part)):
                    if part.first + place in left:
                        found[part.first + place] = part.place.path, span
            if left - found.keys():
                raise ValueError(f"shard {part.place.path}: changed while it was examined; start again")
        return found

    def _part_of(self, number: int) -> Part:
        return self.parts[bisect_right(self.parts, number, key=lambda one: one.first) - 1]


def examine(sources: Sequence[str | Path], options: Options, progress: Progress | None = None) -> Findings:
    """Read all shards of the sources.

    Raises:
        ValueError: a source that is not there, or options that make no sense.
    """
    faults, warnings, tally = Flaws(), Flaws(), Tally()
    places = find_shards(sources, faults, warnings)
    with Crew(options.num_workers, options) as crew:
        survey = _survey(places, options, crew, progress or _silent)
        for check in survey.checks:
            faults.merge(check.faults)
            warnings.merge(check.warnings)
        total = survey.num_records
        showing = (progress or _silent)("examining records", total) if total > MANY_RECORDS else _silent("", 0)
        with showing as show:
            for part in crew.run(read_part, _drawn(survey, options), lambda done: show(done, total)):
                tally.merge(part)
    faults.merge(tally.faults)
    warnings.merge(tally.warnings)
    tally.faults, tally.warnings = faults, warnings
    return conclude(survey, len(places), tally, options)


def _survey(places: Sequence[Place], options: Options, crew: Crew, progress: Progress) -> Survey:
    survey = Survey()
    summed = sum(place.promise.num_bytes for place in places if place.promise is not None and place.promise.sha256)
    showing = progress("checking sums, MiB", summed // 2**20) if summed > LARGE_BYTES else _silent("", 0)
    with showing as show:
        for check in crew.run(_check, places, lambda done: show(done // 2**20, summed // 2**20)):
            survey.checks.append(check)
            for stretch in check.stretches:
                room = stretch.count if options.limit is None else options.limit - survey.num_records
                if room > 0:
                    kept = Stretch(stretch.start, min(stretch.count, room))
                    survey.parts.append(Part(check.place, check.size, kept, survey.num_records, check.broken))
                    survey.num_records += kept.count
            if options.limit is not None and survey.num_records >= options.limit:
                break
    return survey


def _check(options: Options, place: Place, beat: Callable[[int], None]) -> ShardCheck:
    return check_shard(place, beat)


def _drawn(survey: Survey, options: Options) -> Iterator[Part]:
    """The parts, with the records of them that are decoded and shown."""
    chance = np.random.Generator(np.random.Philox(key=options.seed))
    turns = chance.permutation(survey.num_records)
    decoded, shown = np.sort(turns[:DECODED]), np.sort(turns[: options.num_shown])
    for part in survey.parts:
        first, last = part.first, part.first + part.stretch.count
        picked = [
            frozenset(numbers[slice(*np.searchsorted(numbers, [first, last]))].tolist()) for numbers in (decoded, shown)
        ]
        yield Part(part.place, part.size, part.stretch, part.first, part.broken, *picked)


def read_part(options: Options, part: Part, beat: Callable[[int], None]) -> Tally:
    """Measure the records of one part."""
    tally, reader, path = Tally(), options.reader, part.place.path
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != part.size:
                tally.faults.add(path, None, "changed", "changed while it was examined; start again")
                return tally
            for place, span in enumerate(_spans(file.fileno(), part)):
                if place % RECORDS_PER_BEAT == 0:
                    beat(min(RECORDS_PER_BEAT, part.stretch.count - place))
                if span.key in part.broken:  # its shard's faults name it
                    tally.num_read += 1
                    tally.num_bad += 1
                    continue
                number = part.first + place
                record = read_record(tally, reader, path, file.fileno(), span, number, number in part.decoded)
                if record is not None and number in part.shown:
                    tally.samples.append(view_record(str(path), record))
    except OSError as error:
        tally.faults.add(path, None, "cannot be read", f"cannot be read: {error.strerror}")
    return tally


def read_record(
    tally: Tally, reader: RecordReader, path: Path, file: int, span: Span, number: int, decodes: bool
) -> Sample | Question | None:
    """Read the members of a record that anybody reads, and measure it."""
    members = {}
    for extension, offset, size in span.members:
        if is_read_at_all(extension):
            members[extension] = os.pread(file, size, offset)
        else:
            tally.ignored[extension.rsplit(".", 1)[-1]] += 1
            tally.bytes_of["ignored"] += size
    return reader.measure(tally, path, number, span.key, members, decodes)


def _spans(file: int, part: Part) -> Iterator[Span]:
    """The records of a part; its shard's faults are known by now."""
    spans = walk(file, part.size, part.stretch.start, lambda *fault: None, lambda name: None)
    for _, span in zip(range(part.stretch.count), spans, strict=False):
        yield span


def _silent(what: str, total: int) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda done, total: None)
