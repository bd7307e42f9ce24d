"""Random draws that are the same on every machine and Python: each is a hash of a name and a counter.

`random.Random` promises the same `random()` for a seed, but not the same `shuffle`, `sample` or `choice`.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def bucket(name: str, count: int) -> int:
    """Return a whole number below `count` that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % count


class Draws:
    """A stream of random draws named by a string."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.block = 0
        self.pool = b""

    def below(self, count: int) -> int:
        """Return a whole number from 0 to count - 1 (bias below count / 2**32)."""
        if count < 1:
            raise ValueError(f"below() needs a count of at least 1, got {count}")
        if len(self.pool) < 4:
            self.pool = hashlib.sha512(f"{self.name}/{self.block}".encode()).digest()
            self.block += 1
        value, self.pool = int.from_bytes(self.pool[:4], "big"), self.pool[4:]
        return value * count >> 32

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Return the items in random order (Fisher-Yates)."""
        out = list(items)
        for last in range(len(out) - 1, 0, -1):
            other = self.below(last + 1)
            out[last], out[other] = out[other], out[last]
        return out

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return `count` different positions' items, in random order."""
        return self.shuffled(items)[:count]
