"""The endless training stream of one rank: windows of records, packed by themselves, handed out row by row.

In: a reader and an order. Out: parcels with batches. A window's rows are a pure function of its records, so a place in the
stream is (lane, window, row), no buffer is ever saved, and going on anywhere costs the planning of one window in each lane,
when its turn comes.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch.utils.data import get_worker_info

from data.batch import Batch
from data.order import Cursor, Order, chance
from data.pack import pack
from data.row_reader import Parcel, PlannedRow, RowReader

BARREN_WINDOWS = 20  # windows in a row without one usable record, after which a lane gives up


class PackedStream:
    """Each worker reads every `num_workers`-th of the rank's lanes.

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
        except (ValueError, OSError) as error:  # sent as words: the loader's own report of a worker's error is a page
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
                raise ValueError(f"no usable record in {barren} windows of {names}; see the warnings")
            window, first = window + 1, 0

    def _window(self, lane: int, window: int) -> list[list[PlannedRow]]:
        planned = [row for draw in self._order.draws(lane, window) for row in self._reader.plan(draw)]
        rows = pack([one.length for one in planned], self._reader.row_tokens)
        turns = chance(self._seed, "rows", lane, window).permutation(len(rows))
        return [[planned[item] for item in rows[turn]] for turn in turns]
