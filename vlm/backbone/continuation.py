"""Concepts of sequences that go on: the chunker and the concept layers from a cache's state. Used by prefill and step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm.backbone.block import Stream
from vlm.backbone.cache import Cache
from vlm.backbone.chunk import THRESHOLD, Chunks, find_boundaries, smooth
from vlm.backbone.documents import Documents

if TYPE_CHECKING:
    from vlm.backbone.concept_moe import ConceptMoE


def continue_concepts(
    backbone: "ConceptMoE",
    x: Float[Tensor, "n d"],
    documents: Documents,
    rotary: tuple[Tensor, Tensor],
    cache: Cache,
    is_new: Bool[Tensor, " s"],
    sequences: list[int],
    stored: bool,
) -> tuple[Float[Tensor, "n views"], Chunks]:
    """What each new token is shown of its concept, from the cache's state and what the new tokens close.

    Args:
        is_new: True for sequences without tokens so far.
        sequences: which sequence of the cache each document continues.
        stored: False leaves the cache as it is.
    """
    chunker = backbone.chunker
    assert chunker is not None
    assert cache.concepts is not None
    keys, document = chunker.keys(x), documents.document_of_token
    cache.chunk.prepare(cache.num_sequences, keys, backbone.num_views * backbone.config.width)
    here = torch.tensor(sequences, device=x.device)
    state = cache.chunk.of(here)
    prob = chunker.prob(x, keys, documents, state, is_new)
    closes = prob >= THRESHOLD
    closed = torch.stack([torch.ones_like(closes).sum(), closes.sum()])
    boundary, per_document, counts = find_boundaries(closes, documents, torch.stack([closed, torch.zeros_like(closed)]))
    concepts, open_sum = chunker.merge(x, closes, boundary, documents)
    rows = [row for row, count in enumerate(per_document) if count]
    row = torch.tensor(rows, device=x.device, dtype=torch.long)
    old, concept_documents = state.smoothed, None
    assert old is not None
    assert state.open_sum is not None
    table = old
    if rows:
        concept_documents = Documents.from_lengths([per_document[i] for i in rows], x.device)
        named = [sequences[i] for i in rows]
        first = concept_documents.starts
        if open_sum is not None:
            concepts[first] = (concepts[first] + state.open_sum[row]).to(concepts.dtype)
        turn = (rotary[0][boundary], rotary[1][boundary])
        if chunker.config.positions == "count":
            earlier = torch.tensor([cache.concepts.lengths[one] for one in named], device=x.device)
            index = concept_documents.offset_in_document + earlier[concept_documents.document_of_token]
            turn = backbone.rotary(index, x.dtype)
        seats = cache.concepts.seat(concept_documents, named, stored)
        views = backbone.run_concepts(concepts, Stream(concept_documents, turn, cache.concepts, seats), [])
        smoothed = _smooth_apart(views, prob[boundary], old[row], first)
        table = torch.cat([old, smoothed])
        state.smoothed = old.index_copy(0, row, smoothed[concept_documents.ends - 1])
    if stored:
        if open_sum is not None:
            state.open_sum = open_sum + state.open_sum.index_fill(0, row, 0)
        state.router_key = keys[documents.ends - 1]
        cache.chunk.put(here, state)
    concept = closes.cumsum(0) - 1
    count = torch.tensor(per_document, device=x.device)
    sees_new = concept >= (count.cumsum(0) - count)[document]
    concept_of_token = torch.where(sees_new, concept, -1)
    seen = table.index_select(0, torch.where(sees_new, len(old) + concept, document)).to(x.dtype)
    return seen, Chunks(prob, closes, concept_of_token, boundary, concept_documents, counts)


def _smooth_apart(
    views: Float[Tensor, "m views"],
    prob: Float[Tensor, " m"],
    before: Float[Tensor, "s views"],
    starts: Int[Tensor, " s"],
) -> Float[Tensor, "m views"]:
    """`smooth`, where a sequence whose numbers have gone wrong spoils itself alone: 0 times NaN is no 0."""
    spoilt = ~views.isfinite().all(1)
    spoilt = spoilt.index_put((starts,), spoilt[starts] | ~before.isfinite().all(1))
    clean = smooth(views.nan_to_num(0.0, 0.0, 0.0), prob, before.nan_to_num(0.0, 0.0, 0.0), starts)
    return clean.masked_fill(spoilt[:, None], torch.nan)


def named_sequences(sequences: Sequence[int] | None, cache: Cache, documents: Documents) -> list[int]:
    """The sequences that documents continue, if that can be."""
    held = cache.num_sequences
    chosen = list(range(held)) if sequences is None else list(sequences)
    if documents.num_documents != len(chosen):
        what = f"the cache holds {held} sequences" if sequences is None else f"{len(chosen)} sequences are named"
        raise ValueError(
            f"{what} but {documents.num_documents} documents came; give one document for each sequence, in order"
        )
    if wrong := [one for one in chosen if not 0 <= one < held]:
        raise ValueError(f"the cache holds {held} sequences, counted from 0; there is no sequence {wrong[0]}")
    return chosen
