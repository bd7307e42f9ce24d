"""Keys and values that are kept between calls: a row for each sequence, of as many tokens or concepts as it has.

Nothing of the past is moved when a token comes, when a sequence is dropped (its row is used again) or when others go on
without it.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm.backbone.documents import Documents
from vlm.backbone.room import comes_when_written, make_room, room_for


class Run(NamedTuple):
    """Neighbouring documents of a call that continue neighbouring rows of the store, all alike in length."""

    first: int  # the first document's first token in the packed row
    row: int  # its row in the store
    num_documents: int
    before: int  # what each sequence has already
    new: int  # tokens that each document brings

    @property
    def tokens(self) -> slice:
        """The documents' part of the packed row."""
        return slice(self.first, self.first + self.num_documents * self.new)

    @property
    def rows(self) -> slice:
        """The sequences' rows in the store."""
        return slice(self.row, self.row + self.num_documents)


@dataclass(frozen=True)
class Seats:
    """Where the tokens of one call stand among the stored ones."""

    documents: Documents
    runs: tuple[Run, ...]
    stored: bool  # False: the new keys and values are not kept, and one sequence may be continued by several documents
    index: tuple[Int[Tensor, " s"], Int[Tensor, " s"]] | None  # row and place of each token, if every document has one

    @property
    def is_continued(self) -> bool:
        """True if any document has a past."""
        return any(run.before for run in self.runs)


class KeyValues:
    """Keys and values of a stack of layers that share their lengths."""

    def __init__(self, layers: Sequence[tuple[int, int]], num_sequences: int, max_length: int) -> None:
        """`layers`: (heads, width of a head) of each; a layer that runs twice is two."""
        self.max_length = max_length
        self.layers = tuple(layers)
        self.lengths = [0] * num_sequences
        self.rows = list(range(num_sequences))  # of each sequence, in the store
        self.num_rows = num_sequences
        self.capacity = 0  # of each row
        self._written = [0] * num_sequences  # of each row, ever
        # (row, head, place, width): one head's past lies in one piece, which is how attention reads it.
        self.keys: list[Tensor | None] = [None] * len(layers)
        self.values: list[Tensor | None] = [None] * len(layers)

    @property
    def nbytes(self) -> int:
        """Memory that the store takes: what was ever written, or what is reserved where that is taken at once."""
        kept = [one for one in (*self.keys, *self.values) if one is not None]
        if not kept:
            return 0
        reserved = sum(one.nbytes for one in kept)
        if not comes_when_written(kept[0].device):
            return reserved
        return reserved * sum(self._written) // (self.num_rows * self.capacity)

    def seat(self, documents: Documents, sequences: Sequence[int], stored: bool = True) -> Seats:
        """Places for the rows of `documents`, which continue these sequences; if they are stored, lengths grow at once.

        Raises:
            ValueError: a sequence would exceed the cache's size.
        """
        before = [self.lengths[sequence] for sequence in sequences]
        after = [length + new for length, new in zip(before, documents.lengths, strict=True)]
        if stored:
            if max(after) > self.max_length:
                raise ValueError(
                    f"a sequence would grow to {max(after)} tokens but the cache was made for {self.max_length}; "
                    "make it with a larger max_tokens"
                )
            self.capacity = room_for(max(after), self.capacity, self.max_length, documents.starts.device)
            for sequence, length in zip(sequences, after, strict=True):
                self.lengths[sequence] = length
                row = self.rows[sequence]
                self._written[row] = max(self._written[row], length)
        rows = [self.rows[sequence] for sequence in sequences]
        index = None
        if stored and documents.longest == 1 and len(rows) > 1:
            both = torch.tensor([rows, before], device=documents.starts.device)
            index = both[0], both[1]
        return Seats(documents, tuple(_runs(documents.lengths, rows, before)), stored, index)

    def store(self, layer: int, key: Float[Tensor, "n g k"], value: Float[Tensor, "n g k"], seats: Seats) -> None:
        """Write the new rows of one layer."""
        for stores, new in ((self.keys, key), (self.values, value)):
            kept = stores[layer] = self._sized(stores[layer], new)
            if seats.index is not None:
                kept.transpose(1, 2).index_put_(seats.index, new)
                continue
            for run in seats.runs:
                place = kept[run.rows, :, run.before : run.before + run.new]
                place.copy_(new[run.tokens].unflatten(0, (run.num_documents, run.new)).transpose(1, 2))

    def read(
        self, layer: int, rows: slice | Int[Tensor, " s"], length: int
    ) -> tuple[Float[Tensor, "s g c k"], Float[Tensor, "s g c k"]]:
        """The first `length` keys and values of these rows; for a slice a view."""
        key, value = self.keys[layer], self.values[layer]
        assert key is not None
        assert value is not None
        return key[rows, :, :length], value[rows, :, :length]

    def select(self, index: Sequence[int]) -> None:
        rows: list[int] = []
        copies: list[tuple[int, int]] = []
        free = self._free([self.rows[i] for i in index])
        for old in (self.rows[i] for i in index):
            if old in rows:
                new = free.pop() if free else self.num_rows + len(copies)
                copies.append((old, new))
                rows.append(new)
            else:
                rows.append(old)
        self.rows, self.lengths = rows, [self.lengths[i] for i in index]
        self._widen(max(rows, default=-1) + 1)
        length_of = dict(zip(rows, self.lengths, strict=True))
        for _, new in copies:
            self._written[new] = max(self._written[new], length_of[new])
        for kept in (*self.keys, *self.values):
            for old, new in copies if kept is not None else ():
                kept[new, :, : length_of[new]] = kept[old, :, : length_of[new]]  # type: ignore[index]

    def append(self, count: int) -> None:
        free, fresh = self._free(self.rows), range(self.num_rows, self.num_rows + count)
        for row in free[:count]:
            for kept in (*self.keys, *self.values):
                if kept is not None:
                    kept[row, :, : self._written[row]].zero_()  # may be read under a mask, so NaN must not stay
        self.rows += [*free, *fresh][:count]
        self.lengths += [0] * count
        self._widen(max(self.rows, default=-1) + 1)

    def _free(self, used: Sequence[int]) -> list[int]:
        return sorted(set(range(self.num_rows)) - set(used))

    def _widen(self, num_rows: int) -> None:
        if num_rows <= self.num_rows:
            return
        # By a quarter at least: sequences that join one by one must not copy all others each time.
        self.num_rows = max(num_rows, self.num_rows + self.num_rows // 4)
        self._written += [0] * (self.num_rows - len(self._written))
        for stores in (self.keys, self.values):
            stores[:] = [None if kept is None else self._sized(kept, kept.transpose(1, 2)[0]) for kept in stores]

    def _sized(self, kept: Tensor | None, like: Tensor) -> Tensor:
        """The store of one layer at its present size; `like` has shape (_, heads, width)."""
        if kept is not None and kept.shape[0] == self.num_rows and kept.shape[2] == self.capacity:
            return kept
        return self._copied(kept, like)

    def _copied(self, kept: Tensor | None, like: Tensor) -> Tensor:
        """A new store of the present size with what the sequences have in `kept`."""
        room = make_room(like, (self.num_rows, like.shape[1], self.capacity, like.shape[2]))
        if kept is not None:
            for row, length in zip(self.rows, self.lengths, strict=True):
                if row < len(kept):
                    size = min(length, kept.shape[2])
                    room[row, :, :size] = kept[row, :, :size]
        return room

    def clone(self) -> "KeyValues":
        twin = copy(self)
        twin.lengths, twin.rows, twin._written = list(self.lengths), list(self.rows), [0] * self.num_rows
        for row, length in zip(self.rows, self.lengths, strict=True):
            twin._written[row] = length
        for name in ("keys", "values"):
            stores = [None if one is None else self._copied(one, one.transpose(1, 2)[0]) for one in getattr(self, name)]
            setattr(twin, name, stores)
        return twin


def _runs(lengths: Sequence[int], rows: Sequence[int], before: Sequence[int]) -> list[Run]:
    runs: list[Run] = []
    first = 0
    for new, row, past in zip(lengths, rows, before, strict=True):
        last = runs[-1] if runs else None
        if last is not None and (last.row + last.num_documents, last.before, last.new) == (row, past, new):
            runs[-1] = last._replace(num_documents=last.num_documents + 1)
        else:
            runs.append(Run(first, row, 1, past, new))
        first += new
    return runs
