"""What is kept of sequences between calls: keys and values of both streams, and the chunker's unfinished business.

Each sequence has lengths of its own, one for tokens and one for concepts. The chunker keeps the last token's router
vector (the next token is compared with it), the running sum of the open chunk, and the smoothed concept that tokens now
see.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm.backbone.documents import Documents


@dataclass(frozen=True)
class Seats:
    """Where the rows of one call go among the stored keys, and what they may see."""

    documents: Documents  # one per row of `sequences`
    sequences: Int[Tensor, " s"]  # which sequence of the cache each document belongs to
    slots: Int[Tensor, " n"]  # place of each row in the flattened (sequence, capacity) store
    sees: Bool[Tensor, "s 1 queries keys"] | None  # None where nothing was stored before: causal attention is enough


class KeyValues:
    """Keys and values of a stack of layers that share their lengths."""

    def __init__(self, layers: Sequence[tuple[int, int]], num_sequences: int, max_length: int) -> None:
        """`layers`: (heads, width of a head) of each; a layer that runs twice is two."""
        self.max_length = max_length
        self.layers = tuple(layers)
        self.lengths = [0] * num_sequences
        self.capacity = 0
        self.keys: list[Tensor | None] = [None] * len(layers)
        self.values: list[Tensor | None] = [None] * len(layers)

    def seat(self, documents: Documents, sequences: list[int]) -> Seats:
        """Reserve places for the rows of `documents`, which continue these sequences; their lengths grow at once.

        Raises:
            ValueError: a sequence would exceed the cache's size.
        """
        before = [self.lengths[sequence] for sequence in sequences]
        after = [length + new for length, new in zip(before, documents.lengths, strict=True)]
        if max(after) > self.max_length:
            raise ValueError(
                f"a sequence would grow to {max(after)} tokens but the cache was made for {self.max_length}; "
                "make it with a larger max_tokens"
            )
        device = documents.starts.device
        self._reserve(max(after))
        offset = torch.tensor(before, device=device)
        index = torch.tensor(sequences, device=device)
        per_row = documents.document_of_token
        slots = index[per_row] * self.capacity + offset[per_row] + documents.offset_in_document
        sees = None
        if any(before):
            query = torch.arange(documents.longest, device=device)
            key = torch.arange(max(after), device=device)
            sees = (key <= offset[:, None, None] + query[:, None])[:, None]
        for sequence, length in zip(sequences, after, strict=True):
            self.lengths[sequence] = length
        return Seats(documents, index, slots, sees)

    def store(
        self, layer: int, key: Float[Tensor, "n g k"], value: Float[Tensor, "n g k"], seats: Seats
    ) -> tuple[Float[Tensor, "s c g k"], Float[Tensor, "s c g k"]]:
        """Write the new rows of one layer, and return all that the seats' sequences have, padded to the longest."""
        shown = 0 if seats.sees is None else seats.sees.shape[-1]
        out = []
        for stores, new in ((self.keys, key), (self.values, value)):
            kept = self._sized(stores[layer], new)
            kept.view(-1, *self.layers[layer]).index_copy_(0, seats.slots, new)
            stores[layer] = kept
            out.append(kept[seats.sequences, :shown])
        return out[0], out[1]

    def select(self, index: Tensor) -> None:
        self.lengths = [self.lengths[i] for i in index.tolist()]
        for stores in (self.keys, self.values):
            stores[:] = [None if kept is None else kept[index.to(kept.device)] for kept in stores]

    def append(self, count: int) -> None:
        self.lengths += [0] * count
        for stores in (self.keys, self.values):
            stores[:] = [
                None if kept is None else torch.cat([kept, kept.new_zeros(count, *kept.shape[1:])]) for kept in stores
            ]

    def _reserve(self, length: int) -> None:
        if length > self.capacity:
            # Doubling keeps the copies of a long decode linear in its length.
            self.capacity = min(self.max_length, max(length, 2 * self.capacity))

    def _sized(self, kept: Tensor | None, like: Tensor) -> Tensor:
        if kept is not None and kept.shape[1] == self.capacity:
            return kept
        grown = like.new_zeros(len(self.lengths), self.capacity, *like.shape[1:])
        if kept is not None:
            grown[:, : kept.shape[1]] = kept
        return grown


@dataclass(frozen=True)
class KeptLayer:
    """One layer's part of the stored keys and values, for the rows of one call."""

    keys_and_values: KeyValues
    seats: Seats
    layer: int

    def store(
        self, key: Float[Tensor, "n g k"], value: Float[Tensor, "n g k"]
    ) -> tuple[Float[Tensor, "s c g k"], Float[Tensor, "s c g k"]]:
        """Write the new rows, and return all that their sequences have, padded to the longest."""
        return self.keys_and_values.store(self.layer, key, value, self.seats)


class ChunkState:
    """The chunker's state of each sequence, in at least float32."""

    def __init__(self) -> None:
        self.router_key: Float[Tensor, "s d"] | None = None  # the last token's, which the next is compared with
        self.open_sum: Float[Tensor, "s d"] | None = None  # of the tokens after the last boundary
        self.smoothed: Float[Tensor, "s views"] | None = None  # what tokens now see of their concept

    def prepare(self, num_sequences: int, like: Float[Tensor, "n d"], views_width: int) -> None:
        if self.router_key is None:
            zeros = like.new_zeros(num_sequences, like.shape[1])
            self.router_key, self.open_sum = zeros, zeros.clone()
            self.smoothed = like.new_zeros(num_sequences, views_width)

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

    def select(self, index: Int[Tensor, " k"]) -> None:
        """Keep the sequences named by `index`, in its order; one may be left out or named twice."""
        for part in (self.tokens, self.concepts, self.chunk):
            if part is not None:
                part.select(index)

    def append(self, count: int) -> None:
        """Add `count` empty sequences at the end; their first token is a document's start."""
        for part in (self.tokens, self.concepts, self.chunk):
            if part is not None:
                part.append(count)
