"""What is kept of sequences between calls: keys and values of both streams, and the chunker's unfinished business.

Each sequence has lengths of its own, one for tokens and one for concepts. The chunker keeps the last token's router vector
(the next token is compared with it), the running sum of the open chunk, and the smoothed concept that tokens now see.
"""

from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm.backbone.key_values import KeyValues


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

    def clone(self) -> "ChunkState":
        return copy(self)  # its tensors are never changed in place

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

    def clone(self) -> "Cache":
        """A cache of the same sequences that goes on by itself."""
        twin = Cache(self.tokens.clone(), None if self.concepts is None else self.concepts.clone())
        twin.chunk = self.chunk.clone()
        return twin

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
