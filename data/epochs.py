"""Which record of a source comes at which of its draws: every record once in each epoch, over all lanes together.

In: the sizes of a source's shards, a lane, numbers of draws. Out: numbers of records. Nothing is saved or drawn in turn: any
draw of any epoch is found directly. Draw `turn` of lane v is draw `turn * lanes + v` of the source, and epoch e is its draws
from e * records on, so all lanes enter an epoch together.

A small source is shuffled as a whole, and lanes take its records in turn. A source with many shards would need a permutation
of all its records, and every lane would read every shard: there a lane owns a contiguous part of the epoch's shuffled shards
and shuffles it block by block, so it reads from a few shards at a time and memory holds the shards, not the records.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int

BLOCK = 8192  # records that a lane of a big source shuffles among each other
MAX_SHUFFLED = 2**20  # records of a source that may be shuffled as a whole: 4 MB for each epoch kept
BIG_LANE = 64  # records that each lane must have of an epoch, at least, before it gets shards of its own
GROUP = 1024  # epochs of a tiny source are drawn so many records at a time: drawing costs 20 us, however few they are
KEPT = 8  # permutations kept of a small source; its lanes are at most two epochs apart


def chance(*key: int | str) -> np.random.Generator:
    """Randomness that depends on the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class SmallEpochs:
    """A permutation of all records for each epoch.

    Args:
        seed: of the order.
        source: number of the source.
        records: of the source.
        lanes: of the job.
    """

    def __init__(self, seed: int, source: int, records: int, lanes: int) -> None:
        self._key, self._records, self._lanes = (seed, "epoch", source), records, lanes
        self._grouped = max(1, GROUP // records)  # epochs that are drawn together
        self._kept = _Kept(KEPT)

    def indices(self, lane: int, turns: Int[np.ndarray, " draws"]) -> Int[np.ndarray, " draws"]:
        """The records of a lane's draws.

        Args:
            lane: number of the lane.
            turns: numbers of its draws of this source, counted from 0.
        """
        groups, places = np.divmod(turns * self._lanes + lane, self._grouped * self._records)
        found = np.empty_like(turns)
        for group in np.unique(groups).tolist():
            here = groups == group
            found[here] = self._kept(group, self._orders)[places[here]]
        return found

    def _orders(self, group: int) -> Int[np.ndarray, " records"]:
        epochs = np.tile(np.arange(self._records, dtype=np.int32), (self._grouped, 1))
        return chance(*self._key, group).permuted(epochs, axis=1).ravel()


class BigEpochs:
    """Shuffled shards for each epoch, cut into one part for each lane; each part is shuffled block by block.

    Args:
        seed: of the order.
        source: number of the source.
        shards: records of each of its shards.
        lanes: of the job.
    """

    def __init__(self, seed: int, source: int, shards: Sequence[int], lanes: int) -> None:
        self._seed, self._source, self._lanes, self._records = seed, source, lanes, sum(shards)
        starts, sizes = [], []
        first = 0
        for size in shards:
            # A shard larger than a lane's part is read by several lanes at all times, so cutting it costs no locality.
            pieces = -(-size // BLOCK) if size * lanes > self._records else min(size, 1)
            bounds = [size * piece // pieces for piece in range(pieces + 1)] if pieces else [0]
            starts += [first + bound for bound in bounds[:-1]]
            sizes += [end - begin for begin, end in pairwise(bounds)]
            first += size
        self._starts, self._sizes = np.array(starts, dtype=np.int64), np.array(sizes, dtype=np.int64)
        self._orders, self._blocks = _Kept(3), _Kept(2 * lanes)

    def indices(self, lane: int, turns: Int[np.ndarray, " draws"]) -> Int[np.ndarray, " draws"]:
        """The records of a lane's draws, as `SmallEpochs.indices`."""
        epochs = (turns * self._lanes + lane) // self._records
        found = np.empty_like(turns)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = self._of_epoch(lane, epoch, turns[here])
        return found

    def _of_epoch(self, lane: int, epoch: int, turns: Int[np.ndarray, " draws"]) -> Int[np.ndarray, " draws"]:
        firsts = self._first_turns(epoch)
        sizes = self._first_turns(epoch + 1) - firsts  # of the lanes' parts
        size, places = int(sizes[lane]), turns - firsts[lane]
        blocks = -(-size // BLOCK)
        numbers = ((places + 1) * blocks - 1) // size
        shuffled = np.empty_like(places)
        for block in np.unique(numbers).tolist():
            here = numbers == block
            start, end = size * block // blocks, size * (block + 1) // blocks
            order = self._blocks((lane, epoch, block, end - start), self._block_order)
            shuffled[here] = start + order[places[here] - start]
        pieces, ends = self._orders(epoch, self._piece_order)
        places = int(sizes[:lane].sum()) + shuffled
        numbers = np.searchsorted(ends, places, side="right")
        return self._starts[pieces[numbers]] + places - (ends[numbers] - self._sizes[pieces[numbers]])

    def _first_turns(self, epoch: int) -> Int[np.ndarray, " lanes"]:
        """The first draw of each lane that belongs to the epoch."""
        return -((np.arange(self._lanes) - epoch * self._records) // self._lanes)

    def _piece_order(self, epoch: int) -> tuple[Int[np.ndarray, " pieces"], Int[np.ndarray, " pieces"]]:
        pieces = chance(self._seed, "shards", self._source, epoch).permutation(len(self._sizes))
        return pieces, self._sizes[pieces].cumsum()

    def _block_order(self, block: tuple[int, int, int, int]) -> Int[np.ndarray, " records"]:
        lane, epoch, number, size = block
        order = chance(self._seed, "block", self._source, lane, epoch, number).permutation(size)
        return order.astype(np.int32)


def epochs_of(seed: int, source: int, shards: Sequence[int], lanes: int) -> SmallEpochs | BigEpochs:
    """The epochs of a source, by the records of its shards and the number of lanes."""
    records = sum(shards)
    many_shards = sum(size > 0 for size in shards) >= lanes and records >= BIG_LANE * lanes
    if many_shards or records > MAX_SHUFFLED:
        return BigEpochs(seed, source, shards, lanes)
    return SmallEpochs(seed, source, records, lanes)


class _Kept:
    """The values made last."""

    def __init__(self, most: int) -> None:
        self._most, self._values = most, OrderedDict[Any, Any]()

    def __call__(self, key: Any, make: Callable[[Any], Any]) -> Any:
        if key not in self._values:
            self._values[key] = make(key)
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]
