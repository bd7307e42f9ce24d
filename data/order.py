"""Which record comes when: a pure function of (seed, lane, window), so a position is all there is to save.

The stream of packed rows is dealt out to a fixed number of lanes: row g of the whole job belongs to lane g mod `lanes`.
A lane is read window by window; a window is a known number of draws, packed by itself, so nothing is carried over from
one to the next. Processes and workers only decide who reads a lane: their number changes neither order nor mixture.
Each source has epochs of its own (data/epochs.py): over all lanes, every record comes exactly once in each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from data.epochs import chance, epochs_of

__all__ = ["ORDER_VERSION", "Cursor", "Draw", "Order", "chance", "refuse_other_order"]

ORDER_VERSION = 2  # raised when the same settings give another order, so that a place in the old one is refused
PERIOD = 1000  # draws of a lane after which every source has had exactly its share


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


class Order:
    """The draws of every window.

    Args:
        shards: records of each shard of each source.
        weights: share of each source among the draws, to be normalised.
        seed: of the whole order.
        lanes: number of lanes of the job, fixed for its life.
        window: draws in a window, from a lane's third on.
        augmentations: altered copies of a picture, beside the picture itself, of all sources or of each; a draw takes one
            of them at random.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[int]],
        weights: Sequence[float],
        seed: int,
        lanes: int,
        window: int,
        augmentations: int | Sequence[int] = 0,
    ) -> None:
        counts = [sum(sizes) for sizes in shards]
        if not counts or min(counts) < 1:
            raise ValueError(f"every source needs at least one record, got {counts}; leave out the empty ones")
        if len(counts) != len(weights) or min(weights) <= 0:
            raise ValueError(f"every source needs a weight above 0, got {list(weights)} for {len(counts)} sources")
        self.lanes, self.window = lanes, window
        self._seed = seed
        self._copies = 1 + np.broadcast_to(np.array(augmentations), len(counts))
        self._shares = _whole_shares(weights)
        self._epochs = [epochs_of(seed, source, sizes, lanes) for source, sizes in enumerate(shards)]

    def draws(self, lane: int, window: int) -> list[Draw]:
        """The records of a window, in order."""
        sources, turns = self._mixture(lane, self._first(lane, window), self._first(lane, window + 1))
        augmentations = chance(self._seed, "augmentation", lane, window).integers(0, self._copies[sources])
        indices = np.zeros_like(turns)
        for source, epochs in enumerate(self._epochs):
            mine = sources == source
            if mine.any():
                indices[mine] = epochs.indices(lane, turns[mine])
        return list(map(Draw, sources.tolist(), indices.tolist(), augmentations.tolist()))

    def _first(self, lane: int, window: int) -> int:
        """The first draw of a window.

        A lane begins with a small window, so that a run starts at once. The second differs from lane to lane, so that
        they do not plan at the same time ever after.
        """
        if window == 0:
            return 0
        small = max(1, self.window // 8)
        if window == 1:
            return small
        return 3 * small + self.window * lane // self.lanes + (window - 2) * self.window

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
        """The sources of a period. Each one's draws are spread over it: one at a random moment of each of as many equal spans.

        In a permutation, 10,000 draws of the job could miss a share by more than 0.01; so they cannot by half of that.
        """
        share = np.concatenate([np.arange(share) for share in self._shares.tolist()])
        moments = (share + chance(self._seed, "mixture", lane, period).random(PERIOD)) / self._shares.repeat(
            self._shares
        )
        return np.arange(len(self._shares)).repeat(self._shares)[moments.argsort(kind="stable")]


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
