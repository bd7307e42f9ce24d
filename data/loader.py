"""Loaders: batches for the trainer, a place in the data that can be saved, and an account of records left out.

In: packed streams. Out: batches, with the time waited for each. The place is that of the batch last handed out, not of
those that workers have read ahead, so a restart neither repeats nor loses one.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset

from data.batch import Batch
from data.order import Cursor, refuse_other_order
from data.pack import TOO_LONG, Fault, PackedOnce, PackedStream, Parcel

log = logging.getLogger(__name__)
MAX_FAULTY_SHARE, MIN_READS = 0.01, 1000
PREFETCH = 2  # batches read ahead by each worker


class FaultLog:
    """Records left out: counted, named, and too many of them an error.

    Args:
        sizes: records of each source.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = dict(sizes)
        self._reads: Counter[str] = Counter()
        self._seen: set[tuple[str, int]] = set()
        # (source, reason) -> shard and key of each record; one that comes again in a later epoch is named once
        self.keys: dict[tuple[str, str], list[str]] = {}

    def add(self, parcel: Parcel) -> None:
        """Take over a parcel's account.

        Raises:
            ValueError: more than 1 % of at least 1,000 records cannot be used, or a whole source.
        """
        for fault in parcel.faults:
            self._add(fault)
        self._reads.update(parcel.reads)
        if parcel.faults:
            self._check()

    def _add(self, fault: Fault) -> None:
        if (fault.source, fault.index) in self._seen:
            return
        if not any(source == fault.source for source, _ in self.keys):
            log.warning(
                "source %s: skipped %s: %s. More of this source are counted, not shown.",
                fault.source,
                fault.where,
                fault.message,
            )
        self._seen.add((fault.source, fault.index))
        self.keys.setdefault((fault.source, fault.reason), []).append(fault.where)

    def _check(self) -> None:
        # Records seen so far: an epoch has each once, so reads beyond the size are repeats.
        seen = {source: min(reads, self._sizes[source]) for source, reads in self._reads.items()}
        for source, number in seen.items():
            faulty = sum(len(keys) for (other, _), keys in self.keys.items() if other == source)
            if faulty and faulty >= number and (number == self._sizes[source] or number >= MIN_READS):
                raise ValueError(f"source {source}: none of {number} records can be used: {self._words(source)}")
        faulty = sum(len(keys) for (_, reason), keys in self.keys.items() if reason != TOO_LONG)
        total = sum(seen.values())
        if total >= MIN_READS and faulty > MAX_FAULTY_SHARE * total:
            raise ValueError(
                f"{faulty} of {total} records cannot be used, more than {MAX_FAULTY_SHARE:.0%}: {self._words()}; "
                f"mend or remove them"
            )

    def _words(self, source: str | None = None) -> str:
        kinds = [(kind, keys) for kind, keys in self.keys.items() if source in (None, kind[0])]
        return "; ".join(f"{kind[0]}: {len(keys)} x {kind[1]} (such as {keys[0]})" for kind, keys in kinds)


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
    ) -> None:
        if lanes % world:
            raise ValueError(
                f"{lanes} lanes cannot be shared by {world} processes; set data.lanes to a multiple of {world} "
                f"(a run keeps its lanes when it goes on with another number of processes)"
            )
        self._make_stream, self._fingerprint, self._faults = stream, dict(fingerprint), faults
        self._lanes, self._rank, self._world, self._steps = lanes, rank, world, steps
        share = lanes // world
        self.num_workers = max((n for n in range(1, min(num_workers, share) + 1) if share % n == 0), default=0)
        self._first_row = 0  # rows that all ranks had handed out when this loader began
        self.batches_given = 0  # by this rank since then
        self._cursors: dict[int, Cursor] = {}
        self._parcels: Iterator[Parcel] | None = None

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._steps):
            start = time.perf_counter()
            if self._parcels is None:  # made once: the stream runs on over the end of an epoch
                self._parcels = self._start()
            parcel = next(self._parcels)
            wait_s = time.perf_counter() - start
            batch = _open_parcel(parcel, self._faults)
            assert batch is not None
            self._cursors[batch.cursor.lane] = batch.cursor
            self.batches_given += 1
            yield replace(batch, wait_s=wait_s)

    def close(self) -> None:
        """Let the workers go; iterating again goes on at the same place."""
        self._first_row += self.batches_given * self._world
        self.batches_given = 0
        self._parcels = None  # now, not whenever the garbage is collected: torch then waits 5 s for each worker

    def _start(self) -> Iterator[Parcel]:
        # Row number g of the job is of lane g mod lanes; this rank gives every world-th.
        first = self._first_row + self._rank
        lanes = [(first + step * self._world) % self._lanes for step in range(self._lanes // self._world)]
        return iter(_torch_loader(self._make_stream(lanes, self._cursors), self.num_workers))

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
            "rows_given": self._first_row + self.batches_given * self._world,
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
        faults.add(rows.account)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        parcels = iter(_torch_loader(self._rows, self._num_workers))
        while True:
            start = time.perf_counter()
            parcel = next(parcels, None)
            wait_s = time.perf_counter() - start
            if parcel is None:
                return
            batch = _open_parcel(parcel, self._faults)
            if batch is not None:
                yield replace(batch, wait_s=wait_s)


def _open_parcel(parcel: Parcel, faults: FaultLog) -> Batch | None:
    faults.add(parcel)
    if parcel.error is not None:
        raise ValueError(parcel.error)
    return parcel.batch


class _Parcels(IterableDataset):
    """A stream, in the form in which torch sends it to workers."""

    def __init__(self, stream: PackedStream | PackedOnce) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Parcel]:
        return iter(self._stream)


def _torch_loader(stream: PackedStream | PackedOnce, num_workers: int) -> DataLoader:
    options: dict[str, Any] = {}
    if num_workers:
        options = {"prefetch_factor": PREFETCH, "persistent_workers": True, "worker_init_fn": _one_thread}
    pin = torch.cuda.is_available()
    return DataLoader(_Parcels(stream), batch_size=None, num_workers=num_workers, pin_memory=pin, **options)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # a worker shares the machine with the training process and other workers
