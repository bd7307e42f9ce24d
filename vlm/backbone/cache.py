"""What is kept of sequences between calls: keys and values of both streams, and the chunker's unfinished business.

Each sequence has lengths of its own, one for tokens and one for concepts, and a row of its own in every store. Nothing of
the past is moved when a token comes, when a sequence is dropped (its row is used again) or when others go on without it.
The chunker keeps the last token's router vector (the next token is compared with it), the running sum of the open chunk,
and the smoothed concept that tokens now see.
"""

from collections.abc import Sequence
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
        fresh = range(self.num_rows, self.num_rows + count)
        self.rows += [*self._free(self.rows), *fresh][:count]
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
        _, heads, width = like.shape
        grown = make_room(like, (self.num_rows, heads, self.capacity, width))
        if kept is not None:
            for row, length in zip(self.rows, self.lengths, strict=True):
                if row < len(kept):
                    size = min(length, kept.shape[2])
                    grown[row, :, :size] = kept[row, :, :size]
        return grown


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


class ChunkState:
    """The chunker's state of each sequence, in at least float32."""

    def __init__(self) -> None:
        self.router_key: Float[Tensor, "s d"] | None = None  # the last token's, which the next is compared with
        self.open_sum: Float[Tensor, "s d"] | None = None  # of the tokens after the last boundary
        self.smoothed: Float[Tensor, "s views"] | None = None  # what tokens now see of their concept

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in vars(self).values() if kept is not None)

    def prepare(self, num_sequences: int, like: Float[Tensor, "n d"], views_width: int) -> None:
        if self.router_key is None:
            zeros = like.new_zeros(num_sequences, like.shape[1])
            self.router_key, self.open_sum = zeros, zeros.clone()
            self.smoothed = like.new_zeros(num_sequences, views_width)

    def of(self, sequences: Int[Tensor, " s"]) -> "ChunkState":
        """A copy of some sequences' state."""
        part = ChunkState()
        for name, kept in vars(self).items():
            setattr(part, name, None if kept is None else kept.index_select(0, sequences))
        return part

    def put(self, sequences: Int[Tensor, " s"], part: "ChunkState") -> None:
        """Write back what `of` gave, changed; into new tensors, as callers may hold the old ones."""
        for name, kept in vars(self).items():
            setattr(self, name, kept.index_copy(0, sequences, getattr(part, name)))

    def select(self, index: Tensor) -> None:
        for name, kept in vars(self).items():
            if kept is not None:
                setattr(self, name, kept[index.to(kept.device)])

    def append(self, count: int) -> None:
        for name, kept in vars(self).items():
            if kept is not None:
                setattr(self, name, torch.cat([kept, kept.new_zeros(count, kept.shape[1])]))


class Cache:
    """All state of a batch of sequences; made by `ConceptMoE.new_cache`."""

    def __init__(self, tokens: KeyValues, concepts: KeyValues | None) -> None:
        self.tokens = tokens
        self.concepts = concepts  # None without a chunker
        self.chunk = ChunkState()

    @property
    def num_sequences(self) -> int:
        return len(self.tokens.lengths)

    @property
    def num_tokens(self) -> tuple[int, ...]:
        """Tokens that each sequence holds."""
        return tuple(self.tokens.lengths)

    @property
    def num_concepts(self) -> tuple[int, ...]:
        """Concepts that each sequence holds; its tokens where there is no chunker."""
        return tuple((self.concepts or self.tokens).lengths)

    @property
    def nbytes(self) -> int:
        """Memory that all state takes."""
        return sum(part.nbytes for part in (self.tokens, self.concepts, self.chunk) if part is not None)

    def select(self, index: Int[Tensor, " k"] | Sequence[int]) -> None:
        """Keep the sequences named by `index`, in its order; one may be left out or named twice.

        Nothing is copied but what is named twice.
        """
        places = index.tolist() if isinstance(index, Tensor) else list(index)
        for store in (self.tokens, self.concepts):
            if store is not None:
                store.select(places)
        self.chunk.select(torch.as_tensor(places, dtype=torch.long))

    def append(self, count: int) -> None:
        """Add `count` empty sequences at the end, in the rooms of dropped ones if there are any.

        Their first token is a document's start.
        """
        for part in (self.tokens, self.concepts, self.chunk):
            if part is not None:
                part.append(count)
