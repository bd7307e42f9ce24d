"""Loaders: batches for the trainer, a place in the data that can be saved, and an account of records left out.

In: packed streams. Out: batches, with the time waited for each. The place is that of the batch last handed out, not of
those that workers have read ahead, so a restart neither repeats nor loses one.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import distributed

from data.batch import Batch
from data.faults import FaultLog
from data.order import Cursor, refuse_other_order
from data.packed_once import PackedOnce
from data.row_reader import Parcel
from data.stream import PackedStream
from data.workers import Workers


class TrainLoader:
    """The endless training stream, handed out in epochs of a fixed number of steps.

    It has a length, because Lightning reads one batch ahead of a loader without one, and a restart would lose it.

    Args:
        stream: makes the stream of this rank, given its lanes and cursors.
        fingerprint: what the order depends on; a saved place is only taken up where all of it is the same.
        faults: where records left out are accounted for.
        lanes: number of lanes of the job; a multiple of `world`.
        rank: of this process among those with data of their own.
        world: their number.
        steps: of an epoch.
        num_workers: processes; lowered to the next number that divides this rank's lanes.
        before_first: called when the first batch is asked for, to look whether the place is the right one.
    """

    def __init__(
        self,
        stream: Callable[[Sequence[int], Mapping[int, Cursor]], PackedStream],
        fingerprint: Mapping[str, str],
        faults: FaultLog,
        lanes: int,
        rank: int,
        world: int,
        steps: int,
        num_workers: int,
        before_first: Callable[[], None] = lambda: None,
    ) -> None:
        if lanes % world:
            raise ValueError(
                f"{lanes} lanes cannot be shared by {world} processes; set data.lanes to a multiple of {world} "
                f"(a run keeps its lanes when it goes on with another number of processes)"
            )
        self._make_stream, self._fingerprint, self._faults = stream, dict(fingerprint), faults
        self._lanes, self._rank, self._world, self._steps = lanes, rank, world, steps
        self._before_first = before_first
        share = lanes // world
        self.num_workers = max((n for n in range(1, min(num_workers, share) + 1) if share % n == 0), default=0)
        self._first_row = 0  # rows that all ranks had handed out when this loader began
        self.batches_given = 0  # by this rank since then
        self._cursors: dict[int, Cursor] = {}
        self._parcels: Workers | None = None

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._steps):
            start = time.perf_counter()
            if self._parcels is None:  # made once: the stream runs on over the end of an epoch
                self._before_first()
                self._parcels = self._start()
            parcel = next(self._parcels)
            wait_s = time.perf_counter() - start
            batch = _open_parcel(parcel, self._faults)
            assert batch is not None
            self._cursors[batch.cursor.lane] = batch.cursor
            self.batches_given += 1
            yield replace(batch, wait_s=wait_s)

    @property
    def rows_given(self) -> int:
        """Rows that all ranks together have handed out since the run began."""
        return self._first_row + self.batches_given * self._world

    @property
    def worker_pids(self) -> list[int]:
        """The processes that read ahead now."""
        return [] if self._parcels is None else self._parcels.pids

    def close(self) -> None:
        """Let the workers go; iterating again goes on at the same place."""
        self._first_row, self.batches_given = self.rows_given, 0
        self._parcels = None  # now, not whenever the garbage is collected: torch then waits 5 s for each worker

    def _start(self) -> Workers:
        # Row number g of the job is of lane g mod lanes; this rank gives every world-th.
        first = self._first_row + self._rank
        lanes = [(first + step * self._world) % self._lanes for step in range(self._lanes // self._world)]
        return Workers(self._make_stream(lanes, self._cursors), self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The place of all ranks: every rank must call this at the same step, as Lightning does when it saves."""
        here = (self.batches_given, [(c.lane, c.window, c.bin) for c in self._cursors.values()])
        ranks: list[Any] = [here]
        if self._world > 1 and distributed.is_available() and distributed.is_initialized():
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, here)
        given = {batches for batches, _ in ranks}
        if len(given) > 1:
            raise ValueError(f"ranks have taken different numbers of batches ({sorted(given)}); save at a common step")
        places: dict[int, tuple[int, int]] = {}
        for lane, window, row in (place for _, cursors in ranks for place in cursors):
            places[lane] = max(places.get(lane, (0, 0)), (window, row))
        return {
            "fingerprint": dict(self._fingerprint),
            "rows_given": self.rows_given,
            "cursors": [[lane, *place] for lane, place in sorted(places.items())],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved place, with any number of processes and workers.

        Raises:
            ValueError: the data differ from those the place was saved in; names what differs.
        """
        refuse_other_order(state["fingerprint"], self._fingerprint)
        self._first_row, self.batches_given = state["rows_given"], 0
        self._cursors = {lane: Cursor(lane, window, row) for lane, window, row in state["cursors"]}
        self._parcels = None


class ValLoader:
    """Every usable record of this rank's share once."""

    def __init__(self, rows: PackedOnce, faults: FaultLog, num_workers: int) -> None:
        self._rows, self._faults, self._num_workers = rows, faults, num_workers
        for parcel in rows.account:
            faults.add(parcel.faults, parcel.reads)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        parcels = Workers(self._rows, self._num_workers)
        while True:
            start = time.perf_counter()
            parcel = next(parcels, None)
            wait_s = time.perf_counter() - start
            if parcel is None:
                return
            batch = _open_parcel(parcel, self._faults)
            assert batch is not None
            yield replace(batch, wait_s=wait_s)


def _open_parcel(parcel: Parcel, faults: FaultLog) -> Batch | None:
    faults.add(parcel.faults, parcel.reads)
    if parcel.error is not None:
        raise ValueError(parcel.error)
    return parcel.batch
