"""Rows to batches of a fixed token budget: records are read in order, packed window by window, and decoded last.

In: sources and an order. Out: an endless stream of batches (`PackedStream`), or every record once (`PackedOnce`).
Unlike a packer that fills rows as records come by, a window is packed by itself: its rows are a pure function of its
records, so a position in the stream is (lane, window, row) and no buffer is ever saved.
"""

import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch.utils.data import get_worker_info

from data.batch import Batch, collate, is_cached, row_images
from data.image import ImageLayout
from data.order import Cursor, Draw, Order, chance
from data.sample import BadRecord, parse_sample
from data.shards import ShardSet
from data.text import Row, sample_row
from data.tokenizer import Tokenizer

TOO_LONG = "longer than row_tokens"
BARREN_WINDOWS = 20  # windows in a row without one usable record, after which a lane gives up


def pack(lengths: Sequence[int], row_tokens: int, num_rows: int = 1) -> list[list[int]]:
    """Put items into rows of at most `row_tokens`.

    Best-fit decreasing finds how many rows it takes; if the items can be spread evenly over as many, they are, so that
    no step of training has a row that is nearly empty.

    Args:
        lengths: of the items, each from 1 to `row_tokens`.
        row_tokens: the budget of a row.
        num_rows: the least number of rows to make.

    Returns:
        For each row the numbers of its items, ascending. Every item is in exactly one row.
    """
    if not lengths:
        return []
    if max(lengths) > row_tokens or min(lengths) < 1:
        raise ValueError(f"items must have 1 to {row_tokens} tokens, got {min(lengths)} to {max(lengths)}")
    if num_rows > len(lengths):
        raise ValueError(f"{len(lengths)} items cannot fill {num_rows} rows")
    decreasing = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows = _best_fit(decreasing, lengths, row_tokens)
    rows = _spread(decreasing, lengths, row_tokens, max(len(rows), num_rows)) or rows
    while len(rows) < num_rows:
        rows.append([max(rows, key=len).pop()])
    return [sorted(row) for row in rows]


@dataclass(frozen=True)
class Source:
    """Opened shards with a name for messages."""

    name: str
    shards: ShardSet


@dataclass(frozen=True)
class Fault:
    """A record that was left out, and why."""

    source: str
    reason: str
    index: int  # of the record in its source
    where: str  # shard and key
    message: str


@dataclass(frozen=True)
class Parcel:
    """What a worker sends: a batch, or an error; and what happened since its last parcel."""

    batch: Batch | None
    faults: tuple[Fault, ...] = ()
    reads: Mapping[str, int] = field(default_factory=dict)  # records read of each source
    error: str | None = None

    def pin_memory(self) -> "Parcel":
        return replace(self, batch=None if self.batch is None else self.batch.pin_memory())


class RowReader:
    """Reads records as rows; keeps account of reads and of records that cannot be used."""

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        layout: ImageLayout | None,
        row_tokens: int,
        cached: Container[str],
    ) -> None:
        self.sources, self.row_tokens = tuple(sources), row_tokens
        self._tokenizer, self._layout, self._cached = tokenizer, layout, cached
        self._faults: list[Fault] = []
        self._reads: Counter[str] = Counter()

    def row(self, draw: Draw) -> Row | None:
        """The record as a row, or None if it cannot be used (noted as a fault)."""
        source = self.sources[draw.source]
        self._reads[source.name] += 1
        key, members = source.shards.read(draw.index)
        try:
            row = sample_row(parse_sample(key, members), self._tokenizer, self._layout, draw.augmentation)
        except BadRecord as error:
            self.note(draw, error)
            return None
        if len(row) > self.row_tokens:
            self.note(draw, BadRecord(f"has {len(row)} tokens, row_tokens is {self.row_tokens}", TOO_LONG))
            return None
        # Rows wait in memory for their turn: pictures whose features are cached need not wait with them.
        kept = tuple(replace(p, data=b"") if is_cached(p, self._cached) else p for p in row.pictures)
        return replace(row, pictures=kept)

    def note(self, draw: Draw, error: BadRecord) -> None:
        source = self.sources[draw.source]
        shard, position = source.shards.locate(draw.index)
        where = f"{shard.path}, key {shard.key(position)}"
        self._faults.append(Fault(source.name, error.reason, draw.index, where, str(error)))

    def batch(self, drawn: Sequence[tuple[Draw, Row]], cursor: Cursor | None) -> Batch | None:
        """The rows as one batch, without those whose pictures cannot be decoded; None if none is left."""
        spec = None if self._layout is None else self._layout.spec
        try:
            return collate([row for _, row in drawn], spec, self._cached, cursor)
        except BadRecord:
            assert spec is not None
        good = []
        for draw, row in drawn:
            try:
                row_images(row, spec, self._cached)
                good.append(row)
            except BadRecord as error:
                self.note(draw, error)
        return collate(good, spec, self._cached, cursor) if good else None

    def parcel(self, batch: Batch | None, error: str | None = None) -> Parcel:
        """The batch with the account since the last parcel, which begins anew."""
        parcel = Parcel(batch, tuple(self._faults), dict(self._reads), error)
        self._faults, self._reads = [], Counter()
        return parcel


class PackedStream:
    """The endless stream of one rank. Each worker reads every `num_workers`-th of the rank's lanes.

    Args:
        reader: of the sources.
        order: which records a window holds.
        seed: of the order of the rows in a window.
        lanes: the lanes of this rank in the order of its batches; the number of workers divides their number.
        cursors: where lanes go on; lanes not named begin at their start.
    """

    def __init__(
        self, reader: RowReader, order: Order, seed: int, lanes: Sequence[int], cursors: Mapping[int, Cursor]
    ) -> None:
        self._reader, self._order, self._seed = reader, order, seed
        self._lanes, self._cursors = tuple(lanes), dict(cursors)

    def __iter__(self) -> Iterator[Parcel]:
        worker = get_worker_info()
        lanes = self._lanes[worker.id :: worker.num_workers] if worker else self._lanes
        streams = [self._lane(self._cursors.get(lane, Cursor(lane, 0, 0))) for lane in lanes]
        try:
            while True:
                for stream in streams:
                    yield self._reader.parcel(next(stream))
        except ValueError as error:  # sent as words: the loader's own report of a worker's error is a page long
            yield self._reader.parcel(None, str(error))

    def _lane(self, cursor: Cursor) -> Iterator[Batch]:
        lane, window, first = cursor.lane, cursor.window, cursor.bin
        barren = 0
        while True:
            rows = self._window(lane, window)
            given = 0
            for number in range(first, len(rows)):
                batch = self._reader.batch(rows[number], Cursor(lane, window, number + 1))
                rows[number] = []  # a lane's window stays in memory while other lanes have their turn
                if batch is not None:
                    given += 1
                    yield batch
            barren = 0 if given or first else barren + 1
            if barren == BARREN_WINDOWS:
                names = ", ".join(source.name for source in self._reader.sources)
                raise ValueError(f"no usable record among {barren * self._order.window} of {names}; see the warnings")
            window, first = window + 1, 0

    def _window(self, lane: int, window: int) -> list[list[tuple[Draw, Row]]]:
        draws = self._order.draws(lane, window)
        drawn = [(draw, row) for draw in draws if (row := self._reader.row(draw)) is not None]
        rows = pack([len(row) for _, row in drawn], self._reader.row_tokens)
        turns = chance(self._seed, "rows", lane, window).permutation(len(rows))
        return [[drawn[item] for item in rows[turn]] for turn in turns]


class PackedOnce:
    """Every usable record once, packed, split over ranks. Nothing is padded, yet all ranks get equally many batches.

    Args:
        reader: of the sources; all their records are read here once, to know their lengths.
        rank: of this process.
        world: number of processes; all must have the same sources.
    """

    def __init__(self, reader: RowReader, rank: int, world: int) -> None:
        self._reader = reader
        draws = [Draw(s, i, 0) for s, source in enumerate(reader.sources) for i in range(len(source.shards))]
        lengths = {draw: len(row) for draw in draws if (row := reader.row(draw)) is not None}
        usable = list(lengths)
        if len(usable) < world:
            names = ", ".join(source.name for source in reader.sources)
            raise ValueError(f"{len(usable)} usable records in {names}, fewer than the {world} processes")
        shares = [usable[other::world] for other in range(world)]
        # A rank with one batch more than the others would wait for them for ever in the first collective call.
        num_rows = max(len(pack([lengths[draw] for draw in share], reader.row_tokens)) for share in shares)
        num_rows = min(num_rows, *map(len, shares))  # a rank cannot make more rows than it has records
        mine = shares[rank]
        rows = pack([lengths[draw] for draw in mine], reader.row_tokens, num_rows)
        self.rows = [[mine[item] for item in row] for row in sorted(rows)]
        self.account = reader.parcel(None)  # what the reading of all records found

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Parcel]:
        worker = get_worker_info()
        try:
            for row in self.rows[worker.id :: worker.num_workers] if worker else self.rows:
                drawn = [(draw, read) for draw in row if (read := self._reader.row(draw)) is not None]
                batch = self._reader.batch(drawn, None)
                yield self._reader.parcel(batch)
        except ValueError as error:
            yield self._reader.parcel(None, str(error))


def _best_fit(decreasing: Sequence[int], lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for item in decreasing:
        place = bisect_left(room, (lengths[item], -1))
        if place == len(room):
            rows.append([])
            left, row = row_tokens, len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(item)
        insort(room, (left - lengths[item], row))
    return rows


def _spread(
    decreasing: Sequence[int], lengths: Sequence[int], row_tokens: int, num_rows: int
) -> list[list[int]] | None:
    """Each item into the emptiest row; None if one does not fit there."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    used = [(0, row) for row in range(num_rows)]
    for item in decreasing:
        tokens, row = used[0]
        if tokens + lengths[item] > row_tokens:
            return None
        rows[row].append(item)
        heapq.heapreplace(used, (tokens + lengths[item], row))
    return rows if all(rows) else None
