"""One transformer block: attention, then experts (or a dense layer), each behind a norm and added to the stream."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlm.backbone.attend import Layout, lay_out
from vlm.backbone.attention import Attention, AttentionBias, QueryKeyNorm
from vlm.backbone.documents import Documents
from vlm.backbone.experts import ExpertsConfig, Routing, SparseFeedForward
from vlm.backbone.key_values import KeyValues, Seats
from vlm.backbone.layers import RMSNorm, SwiGLU
from vlm.backbone.stored import KeptLayer


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Sizes of one block."""

    width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    experts: ExpertsConfig
    qk_norm: QueryKeyNorm
    attention_bias: AttentionBias
    norm_eps: float

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "num_kv_heads", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, got {self.num_kv_heads} and {self.num_heads}: "
                "each key head serves the same number of query heads"
            )
        if self.head_width % 2:
            raise ValueError(f"head_width must be even, as rotary positions turn pairs, got {self.head_width}")
        if self.qk_norm not in ("head", "all", None):
            raise ValueError(f"unknown qk_norm {self.qk_norm!r}; known: head, all, null")
        if self.attention_bias not in ("qkv", "qkvo", None):
            raise ValueError(f"unknown attention_bias {self.attention_bias!r}; known: qkv, qkvo, null")


@dataclass(frozen=True)
class Stream:
    """What all blocks of one stream (tokens or concepts) share in one call."""

    documents: Documents
    rotary: tuple[Float[Tensor, "n 1 pairs"], Float[Tensor, "n 1 pairs"]]
    store: KeyValues | None = None  # with `seats`: keys and values kept between calls
    seats: Seats | None = None

    def kept(self, layer: int) -> KeptLayer | None:
        """What the layer of that number keeps; None where nothing is."""
        return None if self.store is None or self.seats is None else KeptLayer(self.store, self.seats, layer)


class Block(nn.Module):
    """Pre-norm block with the layout and the names of Qwen3-MoE."""

    def __init__(self, config: BlockConfig, joint: bool = False) -> None:
        super().__init__()
        width, experts = config.width, config.experts
        self.input_layernorm = RMSNorm(width, config.norm_eps)
        self.self_attn = Attention(
            width,
            config.num_heads,
            config.num_kv_heads,
            config.head_width,
            norm_eps=config.norm_eps,
            qk_norm=config.qk_norm,
            bias=config.attention_bias,
            joint=joint,
        )
        self.post_attention_layernorm = RMSNorm(width, config.norm_eps)
        self.is_sparse = experts.num_experts > 1
        self._compiled: Callable[..., Any] | None = None
        self.mlp: nn.Module = SparseFeedForward(width, experts) if self.is_sparse else SwiGLU(width, experts.hidden)

    def forward(
        self, x: Float[Tensor, "n d"], stream: Stream, concept: Float[Tensor, "n d"] | None = None, layer: int = 0
    ) -> tuple[Float[Tensor, "n d"], Routing | None]:
        """Vectors after this block, and the experts' routing (None for a dense layer).

        Args:
            concept: for joint decoding, the concept that each token sees.
            layer: which layer of the stream's store this is.
        """
        layout, kept = lay_out(stream.documents, x), stream.kept(layer)
        if self._compiled is None or kept is not None:
            return self._transform(x, layout, stream.rotary, concept, kept)
        for tensor in (x, *layout, *stream.rotary, concept):
            if tensor is not None:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self._compiled(self, x, layout, stream.rotary, concept, None)

    def compile_rows(self, **options: Any) -> None:
        """Run through torch.compile from now on, except where keys and values are kept."""
        # The function, not the bound method: a deep copy of this block must not compute with the weights of this one.
        self._compiled = torch.compile(Block._transform, **options)

    def _transform(
        self,
        x: Float[Tensor, "n d"],
        layout: Layout,
        rotary: tuple[Float[Tensor, "n 1 pairs"], Float[Tensor, "n 1 pairs"]],
        concept: Float[Tensor, "n d"] | None,
        kept: KeptLayer | None,
    ) -> tuple[Float[Tensor, "n d"], Routing | None]:
        """Sees documents as tensors alone, so that a compiled block does not depend on their lengths."""
        x = x + self.self_attn(self.input_layernorm(x), layout, rotary, concept, kept)
        inner = self.post_attention_layernorm(x)
        if self.is_sparse and kept is not None:
            return x + self.mlp.answer(inner), None  # type: ignore[operator]
        out = self.mlp(inner)
        if self.is_sparse:
            return x + out[0], out[1]
        return x + out, None


def check_cpp_compiler() -> None:
    """Refuse to begin where torch.compile's default backend would fail in the middle of a step.

    Raises:
        ValueError: there is no C++ compiler.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise ValueError(
            f"torch.compile's inductor needs a C++ compiler, and {name!r} was not found; install g++, name another in "
            "the environment variable CXX, or do not compile (compile_blocks: false)"
        )
