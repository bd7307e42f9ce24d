"""The backbone: token layers, a chunker, concept layers, and token layers again. (n d) -> (n d).

    x -> encoder layers -> h -> chunker -> concept layers -> smoothed -> h + what each token sees -> decoder layers

With `concept.width` a projector lies before and behind the concept layers; with `concept.loop` some of them run again.
It knows nothing of images or text, beyond counting them apart. Source: ConceptMoE (arXiv 2601.21420).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm.backbone.block import Block, BlockConfig, Stream, check_cpp_compiler
from vlm.backbone.cache import Cache
from vlm.backbone.chunk import (
    THRESHOLD,
    Chunker,
    Chunks,
    confidence,
    draw_boundaries,
    find_boundaries,
    open_up,
    smooth,
    weigh,
)
from vlm.backbone.config import BackboneConfig
from vlm.backbone.continuation import continue_concepts, named_sequences
from vlm.backbone.documents import Documents
from vlm.backbone.experts import Routing, routing_losses
from vlm.backbone.initialise import initialise
from vlm.backbone.key_values import KeyValues
from vlm.backbone.layers import RMSNorm, Rotary
from vlm.backbone.ratio import ratio_losses


@dataclass(frozen=True)
class BackboneOutput:
    """What one call of the backbone gives."""

    hidden: Float[Tensor, "n d"]
    chunks: Chunks | None  # None where chunk is None
    losses: dict[str, Float[Tensor, ""]] = field(default_factory=dict)  # unweighted; empty for prefill and step
    expert_load: tuple[Float[Tensor, " _"], ...] = ()  # each run of a layer's shares of choices; empty if dense


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
        chunk, wide = config.chunk, config.concept_width
        self.rotary = Rotary(config.head_width, config.rope_theta, config.rope_scaling)
        self.encoder = _stack(config.token_block, config.encoder_layers)
        self.concept = _stack(config.concept_block, config.concept_layers)
        self.decoder = _stack(config.token_block, config.decoder_layers, chunk is not None and chunk.joint is not None)
        self.chunker = None if chunk is None else Chunker(config.width, chunk)
        self.project_in = nn.Linear(config.width, wide, bias=False) if wide != config.width else None
        self.project_out = nn.Linear(wide, config.width, bias=False) if wide != config.width else None
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.reset_parameters()

    def compile_blocks(self, **options: Any) -> None:
        """Run each block through torch.compile from now on; one graph serves rows of any documents.

        Args:
            options: those of torch.compile, such as `backend`.

        Raises:
            ValueError: the backend needs a C++ compiler and there is none.
        """
        if options.get("backend", "inductor") == "inductor":
            check_cpp_compiler()
        # All blocks share one function, which else is compiled 8 times at most: three kinds, in training and evaluation,
        # for one token and for more, are 12.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
        for block in (*self.encoder, *self.concept, *self.decoder):
            block.compile_rows(**options)

    def reset_parameters(self) -> None:
        """Begin anew, as `initialise.py` says."""
        initialise(self, self.config)

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
            x = self._run(self._ordered_concept_layers(), x, tokens, routings)
            x = self._run(self.decoder, x, tokens, routings)
            losses, load = routing_losses(routings, x, self._counts_over_ranks)
            return BackboneOutput(self.norm(x), None, {"ratio": x.new_zeros(()), **losses}, load)

        chunk = self.chunker.config
        prob = self.chunker.prob(x, self.chunker.keys(x), documents)
        closes = draw_boundaries(prob, chunk.tau, chunk.sigma) if self.training else prob >= THRESHOLD
        ratio, closed = ratio_losses(chunk, prob, closes, is_image, self._counts_over_ranks)
        given = prob
        if self.training and self.chunker.open_share > 0:
            prob, closes = open_up(prob, closes, self.chunker.open_share)
        boundary, per_document, counts = find_boundaries(closes, documents, closed)
        concept_documents = Documents.from_lengths(per_document, x.device)
        concepts, _ = self.chunker.merge(x, closes, boundary, documents)
        if chunk.positions == "count":
            stream = Stream(concept_documents, self.rotary(concept_documents.offset_in_document, x.dtype))
        else:
            stream = Stream(concept_documents, (rotary[0][boundary], rotary[1][boundary]))
        views = smooth(self.run_concepts(concepts, stream, routings), prob[boundary])
        concept_of_token = closes.cumsum(0) - 1
        seen, added = self._split_views(views.to(x.dtype).index_select(0, concept_of_token))
        x = x + weigh(added, confidence(prob, closes))
        x = self._run(self.decoder, x, tokens, routings, seen)

        losses, load = routing_losses(routings, x, self._counts_over_ranks)
        chunks = Chunks(given, closes, concept_of_token, boundary, concept_documents, counts)
        return BackboneOutput(self.norm(x), chunks, {**ratio, **losses}, load)

    def new_cache(self, num_sequences: int, max_tokens: int) -> Cache:
        """An empty cache for sequences of up to `max_tokens`; memory is taken as they grow."""
        token_layers, concept_runs = len(self.encoder) + len(self.decoder), len(self.config.concept_order)
        token_block, concept_block = self.config.token_block, self.config.concept_block

        def heads(block: BlockConfig, num_layers: int) -> list[tuple[int, int]]:
            return [(block.num_kv_heads, block.head_width)] * num_layers

        def store(layers: list[tuple[int, int]]) -> KeyValues:
            return KeyValues(layers, num_sequences, max_tokens)

        if self.chunker is None:
            outer = len(self.encoder), len(self.decoder)
            before, after = (heads(token_block, count) for count in outer)
            return Cache(store(before + heads(concept_block, concept_runs) + after), None)
        return Cache(store(heads(token_block, token_layers)), store(heads(concept_block, concept_runs)))

    @torch.no_grad()
    def prefill(
        self,
        x: Float[Tensor, "n d"],
        documents: Documents,
        cache: Cache,
        positions: Int[Tensor, " n"] | Int[Tensor, "n 3"] | None = None,
        sequences: Sequence[int] | None = None,
    ) -> BackboneOutput:
        """Continue sequences of the cache by the tokens of one document each, as evaluation would.

        Equal to `forward` of the whole documents in evaluation mode, wherever they are cut. Without `positions`, they
        are counted from what the cache holds. A call that raises in the middle leaves the cache spoilt.

        Args:
            sequences: which sequence each document continues; all, in order, where None. The others stay as they are.

        Raises:
            ValueError: documents and sequences differ in number, or a sequence is unknown, named twice, or too long.
        """
        chosen = named_sequences(sequences, cache, documents)
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"a sequence can be continued by one document, got {chosen}; `branch` takes several")
        return self._continue(x, documents, cache, positions, chosen, stored=True)

    def step(
        self,
        x: Float[Tensor, "s d"],
        cache: Cache,
        positions: Int[Tensor, " s"] | Int[Tensor, "s 3"] | None = None,
        sequences: Sequence[int] | None = None,
    ) -> BackboneOutput:
        """Continue every sequence by one token. Concept layers run for those alone whose token closes a concept."""
        return self.prefill(x, Documents.from_lengths([1] * len(x), x.device), cache, positions, sequences)

    @torch.no_grad()
    def branch(
        self,
        x: Float[Tensor, "n d"],
        documents: Documents,
        cache: Cache,
        sequences: Sequence[int],
        positions: Int[Tensor, " n"] | Int[Tensor, "n 3"] | None = None,
    ) -> BackboneOutput:
        """What `prefill` gives, with the cache left as it is: a sequence may be continued by several documents.

        Candidates after one prompt share its keys and values, which are read once for neighbouring documents.
        """
        return self._continue(
            x, documents, cache, positions, named_sequences(sequences, cache, documents), stored=False
        )

    def _continue(
        self,
        x: Float[Tensor, "n d"],
        documents: Documents,
        cache: Cache,
        positions: Int[Tensor, " n"] | Int[Tensor, "n 3"] | None,
        sequences: list[int],
        stored: bool,
    ) -> BackboneOutput:
        documents = documents.to(x.device)
        _check_rows(x, documents, self.config.width)
        before = torch.tensor([cache.tokens.lengths[one] for one in sequences], device=x.device)
        if positions is None:
            positions = documents.offset_in_document + before[documents.document_of_token]
        rotary = self.rotary(positions, x.dtype)
        tokens = Stream(documents, rotary, cache.tokens, cache.tokens.seat(documents, sequences, stored))
        x = self._run(self.encoder, x, tokens, [])
        if self.chunker is None:
            middle = self._ordered_concept_layers()
            x = self._run(middle, x, tokens, [], first=len(self.encoder))
            x = self._run(self.decoder, x, tokens, [], first=len(self.encoder) + len(middle))
            return BackboneOutput(self.norm(x), None)
        views, chunks = continue_concepts(self, x, documents, rotary, cache, before == 0, sequences, stored)
        seen, added = self._split_views(views)
        x = self._run(self.decoder, x + added, tokens, [], seen, first=len(self.encoder))
        return BackboneOutput(self.norm(x), chunks)

    @property
    def num_views(self) -> int:
        """Vectors of one concept that tokens get: the concept itself, and with the delta residual its change."""
        chunk = self.config.chunk
        return 2 if chunk is not None and chunk.residual == "delta" and chunk.joint is not None else 1

    def run_concepts(
        self, concepts: Float[Tensor, "m d"], stream: Stream, routings: list[Routing | None]
    ) -> Float[Tensor, "m views"]:
        """The concept layers, and what of their outcome tokens get to see, side by side."""
        assert self.chunker is not None
        before = concepts if self.project_in is None else self.project_in(concepts)
        after = self._run(self._ordered_concept_layers(), before, stream, routings)
        added = after - before if self.chunker.config.residual == "delta" else after
        views = [after, added] if self.num_views == 2 else [added]
        out = views if self.project_out is None else [self.project_out(view) for view in views]
        return out[0] if len(out) == 1 else torch.cat(out, 1)

    def _split_views(self, views: Float[Tensor, "n views"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """What the decoder's joint projections see of a token's concept, and what is added to the token."""
        return (views, views) if self.num_views == 1 else (views[:, : self.config.width], views[:, self.config.width :])

    def _ordered_concept_layers(self) -> list[nn.Module]:
        return [self.concept[layer] for layer in self.config.concept_order]

    def _run(
        self,
        blocks: Iterable[nn.Module],
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


def _stack(config: BlockConfig, num_layers: int, joint: bool = False) -> nn.ModuleList:
    return nn.ModuleList(Block(config, joint) for _ in range(num_layers))


def _check_rows(x: Tensor, documents: Documents, width: int) -> None:
    if len(x) != documents.num_tokens or x.shape[1] != width:
        raise ValueError(
            f"x is {tuple(x.shape)} but the documents hold {documents.num_tokens} tokens "
            f"and the backbone's width is {width}"
        )
