"""The backbone: token layers, a chunker, concept layers, and token layers again. (n d) -> (n d).

    x -> encoder layers -> h -> chunker -> concept layers -> smoothed -> h + what each token sees -> decoder layers

It knows nothing of images or text, beyond counting them apart. Source: ConceptMoE (arXiv 2601.21420).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm.backbone.block import Block, Stream
from vlm.backbone.cache import Cache, KeyValues
from vlm.backbone.chunk import (
    THRESHOLD,
    Chunker,
    Chunks,
    confidence,
    draw_boundaries,
    find_boundaries,
    ratio_losses,
    smooth,
)
from vlm.backbone.config import BackboneConfig
from vlm.backbone.documents import Documents
from vlm.backbone.experts import Routing, routing_losses
from vlm.backbone.layers import RMSNorm, Rotary


@dataclass(frozen=True)
class BackboneOutput:
    """What one call of the backbone gives."""

    hidden: Float[Tensor, "n d"]
    chunks: Chunks | None  # None where chunk is None
    losses: dict[str, Float[Tensor, ""]] = field(default_factory=dict)  # unweighted; empty for prefill and step
    expert_load: Float[Tensor, "layers e"] | None = (
        None  # share of the tokens' choices, without gradient; None if dense
    )


class ConceptMoE(nn.Module):
    """The backbone of the paper; `ConceptMoE(config)(x, documents).hidden`.

    Attributes:
        recompute_blocks: keep only the blocks' inputs for backward and compute the rest again. Boundaries are drawn
            outside the blocks, so that both passes see the same ones.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute_blocks = False
        joint = config.chunk is not None and config.chunk.joint
        self.rotary = Rotary(config.head_width, config.rope_theta)
        self.encoder = self._stack(config.encoder_layers)
        self.concept = self._stack(config.concept_layers)
        self.decoder = self._stack(config.decoder_layers, joint=joint)
        self.chunker = None if config.chunk is None else Chunker(config.width, config.chunk)
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.reset_parameters()

    def _stack(self, num_layers: int, joint: bool = False) -> nn.ModuleList:
        return nn.ModuleList(Block(self.config, joint) for _ in range(num_layers))

    def reset_parameters(self) -> None:
        """Normal weights; those that write to the stream are smaller, so that its size does not grow with depth."""
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                nn.init.normal_(parameter, std=std / (2 * self.config.num_layers) ** 0.5)
            else:
                nn.init.normal_(parameter, std=std)

    def forward(
        self,
        x: Float[Tensor, "n d"],
        documents: Documents,
        positions: Int[Tensor, " n"] | Int[Tensor, "n 3"] | None = None,
        is_image: Bool[Tensor, " n"] | None = None,
    ) -> BackboneOutput:
        """Run whole documents.

        Args:
            positions: counted, or (time, row, column); counted from 0 in each document where None. A concept has the
                position of the token that closes it.
            is_image: True where a token is of an image; used for counting, and for a ratio target of its own.
        """
        documents = documents.to(x.device)
        _check_rows(x, documents, self.config.width)
        positions = documents.offset_in_document if positions is None else positions
        rotary = self.rotary(positions, x.dtype)
        tokens = Stream(documents, rotary)
        routings: list[Routing | None] = []
        x = self._run(self.encoder, x, tokens, routings)
        if self.chunker is None:
            x = self._run(self.concept, x, tokens, routings)
            x = self._run(self.decoder, x, tokens, routings)
            losses, load = routing_losses(routings, x, self._counts_over_ranks)
            return BackboneOutput(self.norm(x), None, {"ratio": x.new_zeros(()), **losses}, load)

        chunker = self.chunker
        prob = chunker.prob(x, chunker.keys(x), documents)
        closes = draw_boundaries(prob, chunker.config.tau if self.training else None)
        boundary, per_document = find_boundaries(closes, documents)
        concept_documents = Documents.from_lengths(per_document, x.device)
        concepts, _ = chunker.merge(x, closes, boundary, documents)
        stream = Stream(concept_documents, (rotary[0][boundary], rotary[1][boundary]))
        concepts = self._run(self.concept, concepts, stream, routings)
        concept_of_token = closes.cumsum(0) - 1
        seen = smooth(concepts, prob[boundary]).to(x.dtype).index_select(0, concept_of_token)
        x = x + seen * confidence(prob, closes).to(x.dtype)[:, None]
        x = self._run(self.decoder, x, tokens, routings, seen)

        ratio, counts = ratio_losses(chunker.config, prob, closes, is_image, self._counts_over_ranks)
        losses, load = routing_losses(routings, x, self._counts_over_ranks)
        chunks = Chunks(prob, closes, concept_of_token, boundary, concept_documents, counts)
        return BackboneOutput(self.norm(x), chunks, {**ratio, **losses}, load)

    def new_cache(self, num_sequences: int, max_tokens: int) -> Cache:
        """An empty cache for sequences of up to `max_tokens`; memory is taken as they grow."""
        config = self.config

        def store(num_layers: int) -> KeyValues:
            return KeyValues(num_layers, num_sequences, max_tokens, config.num_kv_heads, config.head_width)

        if self.chunker is None:
            return Cache(store(config.num_layers), None)
        return Cache(store(config.encoder_layers + config.decoder_layers), store(config.concept_layers))

    @torch.no_grad()
    def prefill(
        self,
        x: Float[Tensor, "n d"],
        documents: Documents,
        cache: Cache,
        positions: Int[Tensor, " n"] | Int[Tensor, "n 3"] | None = None,
    ) -> BackboneOutput:
        """Continue every sequence of the cache by the tokens of its document, as evaluation would.

        Equal to `forward` of the whole documents in evaluation mode, wherever they are cut. Without `positions`, they
        are counted from what the cache holds.
        """
        documents = documents.to(x.device)
        _check_rows(x, documents, self.config.width)
        if documents.num_documents != cache.num_sequences:
            raise ValueError(
                f"the cache holds {cache.num_sequences} sequences but {documents.num_documents} documents came; "
                "give one document for each sequence, in order"
            )
        before = torch.tensor(cache.num_tokens, device=x.device)
        if positions is None:
            positions = documents.offset_in_document + before[documents.document_of_token]
        rotary = self.rotary(positions, x.dtype)
        seats = cache.tokens.seat(documents, list(range(cache.num_sequences)))
        tokens = Stream(documents, rotary, cache.tokens, seats)
        x = self._run(self.encoder, x, tokens, [])
        if self.chunker is None:
            x = self._run(self.concept, x, tokens, [], first=self.config.encoder_layers)
            x = self._run(self.decoder, x, tokens, [], first=self.config.encoder_layers + self.config.concept_layers)
            return BackboneOutput(self.norm(x), None)
        seen, chunks = self._continue_concepts(self.chunker, x, documents, rotary, cache, before == 0)
        x = self._run(self.decoder, x + seen, tokens, [], seen, first=self.config.encoder_layers)
        return BackboneOutput(self.norm(x), chunks)

    def step(
        self,
        x: Float[Tensor, "s d"],
        cache: Cache,
        positions: Int[Tensor, " s"] | Int[Tensor, "s 3"] | None = None,
    ) -> BackboneOutput:
        """Continue every sequence by one token. Concept layers run for those alone whose token closes a concept."""
        return self.prefill(x, Documents.from_lengths([1] * len(x), x.device), cache, positions)

    def _continue_concepts(
        self,
        chunker: Chunker,
        x: Float[Tensor, "n d"],
        documents: Documents,
        rotary: tuple[Tensor, Tensor],
        cache: Cache,
        is_new: Bool[Tensor, " s"],
    ) -> tuple[Float[Tensor, "n d"], Chunks]:
        """The concept that each new token sees, from the cache's state and what the new tokens close."""
        assert cache.concepts is not None
        keys, state, document = chunker.keys(x), cache.chunk, documents.document_of_token
        state.prepare(cache.num_sequences, keys)
        prob = chunker.prob(x, keys, documents, state, is_new)
        closes = prob >= THRESHOLD
        boundary, per_document = find_boundaries(closes, documents)
        concepts, open_sum = chunker.merge(x, closes, boundary, documents)
        rows = [row for row, count in enumerate(per_document) if count]
        row = torch.tensor(rows, device=x.device, dtype=torch.long)
        old, concept_documents = state.smoothed, None
        assert old is not None
        assert state.open_sum is not None
        table = old
        if rows:
            concept_documents = Documents.from_lengths([per_document[i] for i in rows], x.device)
            first = concept_documents.starts
            if open_sum is not None:
                concepts[first] = (concepts[first] + state.open_sum[row]).to(concepts.dtype)
            seats = cache.concepts.seat(concept_documents, rows)
            here = (rotary[0][boundary], rotary[1][boundary])
            concepts = self._run(self.concept, concepts, Stream(concept_documents, here, cache.concepts, seats), [])
            smoothed = smooth(concepts, prob[boundary], old[row], first)
            table = torch.cat([old, smoothed])
            state.smoothed = old.index_copy(0, row, smoothed[concept_documents.ends - 1])
        if open_sum is not None:
            state.open_sum = open_sum + state.open_sum.index_fill(0, row, 0)
        state.router_key = keys[documents.ends - 1]
        concept = closes.cumsum(0) - 1
        count = torch.tensor(per_document, device=x.device)
        sees_new = concept >= (count.cumsum(0) - count)[document]
        concept_of_token = torch.where(sees_new, concept, -1)
        seen = table.index_select(0, torch.where(sees_new, len(old) + concept, document)).to(x.dtype)
        closed = torch.stack([torch.tensor(len(x), device=x.device), closes.sum()])
        counts = torch.stack([closed, torch.zeros_like(closed)])
        return seen, Chunks(prob, closes, concept_of_token, boundary, concept_documents, counts)

    def _run(
        self,
        blocks: nn.ModuleList,
        x: Float[Tensor, "n d"],
        stream: Stream,
        routings: list[Routing | None],
        concept: Float[Tensor, "n d"] | None = None,
        first: int = 0,
    ) -> Float[Tensor, "n d"]:
        for layer, block in enumerate(blocks, first):
            if self.recompute_blocks and torch.is_grad_enabled():
                x, routing = checkpoint(block, x, stream, concept, layer, use_reentrant=False)
            else:
                x, routing = block(x, stream, concept, layer)
            routings.append(routing)
        return x

    @property
    def _counts_over_ranks(self) -> bool:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return self.training and distributed and torch.distributed.get_world_size() > 1


def _check_rows(x: Tensor, documents: Documents, width: int) -> None:
    if len(x) != documents.num_tokens or x.shape[1] != width:
        raise ValueError(
            f"x is {tuple(x.shape)} but the documents hold {documents.num_tokens} tokens "
            f"and the backbone's width is {width}"
        )
