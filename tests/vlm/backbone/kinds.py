"""The kinds of backbone for which the invariants must hold: each the smallest that shows its trait."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from vlm.backbone import (
    BackboneConfig,
    BackboneOutput,
    ChunkConfig,
    ConceptConfig,
    ConceptMoE,
    Documents,
    ExpertsConfig,
    LoopConfig,
    concept_moe,
)
from vlm.backbone.block import Stream
from vlm.backbone.chunk import Chunker

WIDTH = 12
SUM = BackboneConfig(
    width=WIDTH,
    num_heads=4,
    num_kv_heads=2,
    head_width=6,  # three pairs: one turns by time, one by row, one by column
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=2,
    experts=ExpertsConfig(num_experts=4, top_k=2, hidden=8),
    chunk=ChunkConfig(compression=2.0),
    init_std=0.4,  # far from the small start of training, so that every part counts in the result
)
SMALL_EXPERTS = ExpertsConfig(num_experts=3, top_k=1, hidden=4)
BLOCK_LOOP = LoopConfig(first=0, layers=2, passes=2)  # 0, 1, 0, 1; not 0, 0, 1, 1

CHUNKED = {
    "sum": SUM,
    "last": replace(SUM, chunk=ChunkConfig(compression=2.0, merge="last")),
    "delta": replace(SUM, chunk=ChunkConfig(compression=2.0, residual="delta")),
    "delta without joint": replace(SUM, chunk=ChunkConfig(compression=1.5, residual="delta", merge="last", joint=None)),
    "zero joint": replace(SUM, chunk=ChunkConfig(compression=2.0, joint="zero")),
    "counted": replace(SUM, chunk=ChunkConfig(compression=2.0, positions="count")),
    "looped": replace(SUM, concept=ConceptConfig(loop=BLOCK_LOOP)),
    "wide": replace(SUM, concept=ConceptConfig(width=20, num_heads=3, num_kv_heads=3, experts=SMALL_EXPERTS)),
    "wide delta looped": replace(
        SUM,
        chunk=ChunkConfig(compression=2.0, residual="delta", merge="last"),
        concept=ConceptConfig(width=20, num_heads=2, num_kv_heads=1, loop=LoopConfig(first=1, layers=1, passes=3)),
    ),
    "shared expert": replace(SUM, experts=replace(SUM.experts, shared_hidden=4, normalize_top_k=False)),
    "biased": replace(SUM, attention_bias="qkvo", qk_norm=None),
    "norm over heads": replace(SUM, attention_bias="qkv", qk_norm="all"),
    "dense": replace(SUM, experts=ExpertsConfig(num_experts=1, top_k=1, hidden=8)),
    "gaussian": replace(SUM, chunk=ChunkConfig(compression=2.0, tau=None, sigma=0.1, ratio_share="threshold")),
    "two targets": replace(SUM, chunk=ChunkConfig(compression=1.5, compression_image=4.0, tau=1.0)),
}
PLAIN = {
    "plain": replace(SUM, chunk=None),
    "plain dense": replace(SUM, chunk=None, experts=ExpertsConfig(num_experts=1, top_k=1, hidden=8)),
    "plain looped": replace(SUM, chunk=None, concept=ConceptConfig(loop=BLOCK_LOOP)),
}
KINDS = CHUNKED | PLAIN


few_long_or_many_short = st.one_of(
    st.lists(st.integers(1, 300), min_size=1, max_size=4), st.lists(st.integers(1, 12), min_size=1, max_size=100)
)


def backbone_of(kind: str | BackboneConfig, dtype: torch.dtype = torch.float64) -> ConceptMoE:
    """Random weights, the same each time; norms and biases are random too, or a swapped pair would not be seen."""
    torch.manual_seed(0)
    backbone = ConceptMoE(KINDS[kind] if isinstance(kind, str) else kind)
    for parameter in backbone.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=parameter[0].item(), std=0.3)
    return backbone.to(dtype).eval()


def vectors(num_tokens: int, seed: int = 1) -> Tensor:
    return torch.randn(num_tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def places(num_tokens: int, seed: int = 1) -> Tensor:
    """Times, rows and columns without order."""
    return torch.randint(0, 30, (num_tokens, 3), generator=torch.Generator().manual_seed(seed))


def some_boundaries(lengths: Sequence[int], share: float = 0.4, seed: int = 1) -> Tensor:
    """True at each document's first token, and at about this share of the others."""
    drawn = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed)) < share
    return drawn | Documents.from_lengths(lengths).is_start


def train_with(
    backbone: ConceptMoE, x: Tensor, lengths: Sequence[int], closes: Tensor, *more: Tensor
) -> BackboneOutput:
    """A training step's output where these boundaries are drawn; `more`: positions, is_image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concept_moe, "draw_boundaries", lambda *_: closes)
        out = backbone.train()(x, Documents.from_lengths(lengths), *more)
    assert isinstance(out, BackboneOutput)
    return out


@contextmanager
def every_probability(value: float | None) -> Iterator[None]:
    """The router gives this probability at every token, and 1 at the first of each document; None: its own."""
    true_prob = Chunker.prob

    def prob(self: Chunker, *inputs: object) -> Tensor:
        true = true_prob(self, *inputs)  # type: ignore[arg-type]
        return true if value is None else torch.full_like(true, value).masked_fill(true == 1, 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chunker, "prob", prob)
        yield


def stream_of(backbone: ConceptMoE, documents: Documents) -> Stream:
    """For running a block of token layers by itself."""
    return Stream(documents, backbone.rotary(documents.offset_in_document, torch.float64))


def gradients(backbone: ConceptMoE) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in backbone.named_parameters()}
