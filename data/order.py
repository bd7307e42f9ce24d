"""Which record comes when: a pure function of (seed, lane, window), so a position is all there is to save.

The stream of packed rows is dealt out to a fixed number of lanes: row g of the whole job belongs to lane g mod `lanes`.
A lane is read window by window; a window is a fixed number of draws, packed by itself, so nothing is carried over from
one to the next. Processes and workers only decide who reads a lane: their number changes neither order nor mixture.
Each source has epochs of its own: over all lanes, every record comes exactly once in each.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

PERIOD = 1000  # draws after which every source has had exactly its share
KEPT_EPOCHS = 8  # permutations kept in memory; lanes of one source are at most two epochs apart


@dataclass(frozen=True)
class Draw:
    """One record to read."""

    source: int
    index: int
    augmentation: int


@dataclass(frozen=True)
class Cursor:
    """A position in one lane: the next row to give out is number `bin` of window `window`."""

    lane: int
    window: int
    bin: int


def chance(*key: int | str) -> np.random.Generator:
    """Randomness that depends on the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Order:
    """The draws of every window.

    Args:
        counts: records of each source.
        weights: share of each source among the draws, to be normalised.
        seed: of the whole order.
        lanes: number of lanes of the job, fixed for its life.
        window: draws in a window.
        augmentations: altered copies of a picture, beside the picture itself, of all sources or of each; a draw takes one
            of them at random.
    """

    def __init__(
        self,
        counts: Sequence[int],
        weights: Sequence[float],
        seed: int,
        lanes: int,
        window: int,
        augmentations: int | Sequence[int] = 0,
    ) -> None:
        if not counts or min(counts) < 1:
            raise ValueError(f"every source needs at least one record, got {list(counts)}; leave out the empty ones")
        if len(counts) != len(weights) or min(weights) <= 0:
            raise ValueError(f"every source needs a weight above 0, got {list(weights)} for {len(counts)} sources")
        self.counts, self.lanes, self.window = tuple(counts), lanes, window
        self._seed = seed
        self._copies = 1 + np.broadcast_to(np.array(augmentations), len(counts))
        self._shares = _whole_shares(weights)
        self._epochs: OrderedDict[tuple[int, int], Int[np.ndarray, " records"]] = OrderedDict()

    def draws(self, lane: int, window: int) -> list[Draw]:
        """The records of a window, in order."""
        first = window * self.window
        sources, turns = self._mixture(lane, first, first + self.window)
        augmentations = chance(self._seed, "augmentation", lane, window).integers(0, self._copies[sources])
        indices = np.zeros_like(turns)
        for source, count in enumerate(self.counts):
            mine = sources == source
            # Draw number `turn` of this source in this lane; the lanes take turns through its epochs.
            epochs, places = np.divmod(turns[mine] * self.lanes + lane, count)
            orders = {epoch: self._permutation(source, epoch) for epoch in np.unique(epochs).tolist()}
            indices[mine] = [orders[epoch][place] for epoch, place in zip(epochs.tolist(), places, strict=True)]
        return list(map(Draw, sources.tolist(), indices.tolist(), augmentations.tolist()))

    def _mixture(self, lane: int, first: int, last: int) -> tuple[Int[np.ndarray, " draws"], Int[np.ndarray, " draws"]]:
        """For each draw of a lane from `first` to `last`: its source, and how many draws of that source came before."""
        period = first // PERIOD
        pattern = np.concatenate([self._pattern(lane, p) for p in range(period, (last - 1) // PERIOD + 1)])
        turns = np.zeros(len(pattern), dtype=np.int64)
        for source, share in enumerate(self._shares.tolist()):
            mine = pattern == source
            turns[mine] = period * share + np.arange(mine.sum())
        here = slice(first - period * PERIOD, last - period * PERIOD)
        return pattern[here], turns[here]

    def _pattern(self, lane: int, period: int) -> Int[np.ndarray, " draws"]:
        sources = np.repeat(np.arange(len(self._shares)), self._shares)
        return chance(self._seed, "mixture", lane, period).permutation(sources)

    def _permutation(self, source: int, epoch: int) -> Int[np.ndarray, " records"]:
        if (source, epoch) not in self._epochs:
            order = chance(self._seed, "epoch", source, epoch).permutation(self.counts[source])
            self._epochs[source, epoch] = order
            if len(self._epochs) > KEPT_EPOCHS * len(self.counts):
                self._epochs.popitem(last=False)
        self._epochs.move_to_end((source, epoch))
        return self._epochs[source, epoch]


def refuse_other_order(saved: Mapping[str, str], here: Mapping[str, str]) -> None:
    """A position means something only in the order it was saved from.

    Raises:
        ValueError: names what differs.
    """
    differing = sorted(name for name in saved.keys() | here.keys() if saved.get(name) != here.get(name))
    if differing:
        changes = "; ".join(
            f"{name} was {saved.get(name, 'absent')}, is {here.get(name, 'absent')}" for name in differing
        )
        raise ValueError(
            f"the data differ from those of the checkpoint ({changes}), so its place in them means nothing; restore "
            f"these settings, or start a new run from the model's weights"
        )


def _whole_shares(weights: Sequence[float]) -> Int[np.ndarray, " sources"]:
    """Draws of each source in a period: whole numbers that sum to it, each within one of the exact share."""
    exact = np.array(weights) / np.sum(weights) * PERIOD
    shares = np.floor(exact).astype(np.int64)
    missing = PERIOD - int(shares.sum())
    # Stable, so that equal remainders fall to the first source on every machine.
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    if (shares == 0).any():
        smallest = int(np.argmin(weights))
        raise ValueError(
            f"source {smallest} has {weights[smallest] / np.sum(weights):.2%} of the weight; below 1/{PERIOD} it would "
            f"never be drawn: raise its weight or leave it out"
        )
    return shares
