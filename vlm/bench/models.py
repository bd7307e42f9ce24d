"""The models that are measured side by side: the plain MoE, the ConceptMoEs matched to it, and transformers' of its shape.

The shape is small enough for a CPU and large enough that products dominate: width 384, 12 layers, 16 experts of 512, of
which 2 are chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlm.backbone import BackboneConfig, ConceptMoE, Documents, ExpertsConfig
from vlm.backbone.cache import Cache, ChunkState
from vlm.backbone.chunk import Chunker
from vlm.backbone.matching import match
from vlm.training.loss import answered_cross_entropy

PLAIN = BackboneConfig(
    width=384,
    num_heads=6,
    num_kv_heads=6,
    head_width=64,
    encoder_layers=1,
    concept_layers=10,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=16, top_k=2, hidden=512, balance_weight=0.0),
    chunk=None,
)
VOCABULARY = 8192
BASELINE, PEER = "plain MoE", "transformers"


@dataclass(frozen=True)
class Row:
    """One packed row of random letters; all documents have one length, as transformers' batches have."""

    ids: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    documents: Documents

    @classmethod
    def random(cls, num_documents: int, length: int, device: torch.device) -> "Row":
        ids = torch.randint(VOCABULARY, (num_documents * length,), generator=torch.Generator().manual_seed(0)).to(
            device
        )
        documents = Documents.from_lengths([length] * num_documents, device)
        return cls(ids, ids.roll(-1).index_fill(0, documents.ends - 1, -100), documents)


class RegularChunker(Chunker):
    """A chunker that is told which tokens close: compression is exact whatever the weights.

    The router computes all that it always does; its probabilities then decide nothing but the smoothing.

    Attributes:
        forced: True for each row of the coming call that closes a concept. None for whole documents: concepts of the
            target's length. With a cache it must be set, as a document of one token does not know its place.
    """

    forced: Bool[Tensor, " n"] | None = None

    def prob(
        self,
        x: Float[Tensor, "n d"],
        keys: Float[Tensor, "n d"],
        documents: Documents,
        state: ChunkState | None = None,
        is_new: Tensor | None = None,
    ) -> Float[Tensor, " n"]:
        own = super().prob(x, keys, documents, state, is_new)
        closes = self.forced
        if closes is None:
            assert state is None
            step, offset = 1 / self.config.compression, documents.offset_in_document
            closes = ((offset + 1) * step).floor() > (offset * step).floor()
        # A probability of exactly 1 is a document's first token, which closes in any case.
        return torch.where(own == 1, own, torch.where(closes, 0.5 + own / 2, 0.2495 * own))


class Ours(nn.Module):
    """Embedding, backbone and tied head: what transformers calls a model for causal language modelling."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, config.width)
        self.backbone = ConceptMoE(config)
        if config.chunk is not None:
            regular = RegularChunker(config.width, config.chunk)
            regular.load_state_dict(self.backbone.chunker.state_dict())  # type: ignore[union-attr]
            self.backbone.chunker = regular
        self.head = nn.Linear(config.width, VOCABULARY, bias=False)

    def loss(self, row: Row) -> Tensor:
        out = self.backbone(self.embed(row.ids), row.documents)
        count = max(len(row.ids) - row.documents.num_documents, 1)
        loss = answered_cross_entropy(out.hidden, row.labels, self.head.weight) / count
        return loss + 0.03 * out.losses["ratio"]

    def prefill(
        self, ids: Int[Tensor, " n"], documents: Documents, cache: Cache, closes: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "s v"]:
        """Continue every sequence of the cache; logits of each document's last token.

        Args:
            closes: which tokens close a concept; a plain model has no use for it.
        """
        self._force(closes)
        hidden = self.backbone.prefill(self.embed(ids), documents, cache).hidden
        logits: Tensor = self.head(hidden[documents.ends - 1])
        return logits

    def step(
        self, ids: Int[Tensor, " s"], cache: Cache, closes: Bool[Tensor, " s"] | None = None
    ) -> Float[Tensor, "s v"]:
        """Continue every sequence by one token."""
        self._force(closes)
        logits: Tensor = self.head(self.backbone.step(self.embed(ids), cache).hidden)
        return logits

    def _force(self, closes: Tensor | None) -> None:
        if isinstance(self.backbone.chunker, RegularChunker):
            self.backbone.chunker.forced = closes


class Peer(nn.Module):
    """transformers' Qwen3MoE of the plain model's shape, its experts by grouped products at first, attention by SDPA."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        try:
            from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
        except ImportError as error:
            raise ImportError(
                "the comparison with transformers needs the extra [hf]: pip install conceptvlm[hf]"
            ) from error
        experts = config.experts
        settings = Qwen3MoeConfig(  # type: ignore[call-arg]  # head_dim is taken, but not declared
            vocab_size=VOCABULARY,
            hidden_size=config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_width,
            num_experts=experts.num_experts,
            num_experts_per_tok=experts.top_k,
            moe_intermediate_size=experts.hidden,
            norm_topk_prob=experts.normalize_top_k,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
            use_cache=False,
        )
        self.model: Any = Qwen3MoeForCausalLM._from_config(
            settings, attn_implementation="sdpa", experts_implementation="grouped_mm"
        )

    def take_weights(self, plain: Ours) -> None:
        """Compute what our plain model does: random weights of its own would spread tokens over other numbers of experts."""
        stacks = [
            ("encoder", plain.backbone.encoder),
            ("concept", plain.backbone.concept),
            ("decoder", plain.backbone.decoder),
        ]
        places = [f"backbone.{name}.{layer}." for name, stack in stacks for layer in range(len(stack))]
        names = {f"model.layers.{layer}.": place for layer, place in enumerate(places)}
        names |= {"model.embed_tokens.": "embed.", "lm_head.": "head.", "model.norm.": "backbone.norm."}
        weights = plain.state_dict()
        taken = {}
        for theirs in self.model.state_dict():
            (place,) = [one for one in names if theirs.startswith(one)]
            taken[theirs] = weights[names[place] + theirs[len(place) :]]
        self.model.load_state_dict(taken)

    def loss(self, row: Row) -> Tensor:
        ids = row.ids.view(row.documents.num_documents, -1)
        loss: Tensor = self.model(input_ids=ids, labels=ids).loss
        return loss


def variants(compression: float, plain: BackboneConfig = PLAIN) -> dict[str, BackboneConfig]:
    """The plain MoE and the ConceptMoEs that the solver matches to it, under their names."""
    found = {BASELINE: plain}
    settings: Sequence[dict[str, Any]] = ({"strategy": 1}, {"strategy": 2, "loop": 1.5}, {"strategy": 2, "loop": 2.0})
    for setting in settings:
        matched = match(plain, compression, **setting)
        chunk = matched.config.chunk
        assert chunk is not None
        found[matched.name] = replace(matched.config, chunk=replace(chunk, tau=None))
    return found


def builders(compression: float, with_peer: bool = True) -> dict[str, Callable[[], nn.Module]]:
    """What makes each model, so that one can be built at a time."""

    def make(config: BackboneConfig) -> Callable[[], nn.Module]:
        return lambda: Ours(config)

    found: dict[str, Callable[[], nn.Module]] = {name: make(config) for name, config in variants(compression).items()}
    if with_peer:
        found[PEER] = lambda: Peer(PLAIN)
    return found
