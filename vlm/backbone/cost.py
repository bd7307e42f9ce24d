"""What a backbone costs: parameters, FLOPs for a token, bytes of keys and values for a token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vlm.backbone.config import BackboneConfig
from vlm.backbone.experts import SparseFeedForward


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a module."""

    total: int
    activated: int  # those that one token passes through: of a layer's experts the chosen ones
    trainable: int


def count_parameters(module: nn.Module) -> ParameterCount:
    """Count each parameter once, however often it is shared."""
    idle = 0
    for part in module.modules():
        if isinstance(part, SparseFeedForward):
            num_experts = part.gate.out_features
            size = sum(parameter.numel() for parameter in part.experts.parameters())
            idle += size // num_experts * (num_experts - part.gate.top_k)
    parameters = list(module.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    return ParameterCount(total, total - idle, sum(p.numel() for p in parameters if p.requires_grad))


def flops_per_token(config: BackboneConfig, context: float = 0.0, compression: float | None = None) -> float:
    """Forward FLOPs for one token (a multiply-add is 2): products only, without norms and other elementwise work.

    Args:
        context: tokens that a token attends to on average; 0 leaves the attention maps out, as the paper does. For
        whole
            documents of n tokens it is (n + 1) / 2.
        compression: measured tokens per concept; the target where None.
    """
    ratio = 1.0
    extra = 0.0
    if config.chunk is not None:
        ratio = config.chunk.compression if compression is None else compression
        extra = 2 * 2 * config.width * config.width  # the router's queries and keys
        if config.chunk.joint:
            extra += config.decoder_layers * 2 * config.width * config.head_width * _projected_heads(config)
    token_layers = config.encoder_layers + config.decoder_layers
    concept = config.concept_layers * layer_flops(config, context / ratio) / ratio
    return token_layers * layer_flops(config, context) + concept + extra


def layer_flops(config: BackboneConfig, context: float = 0.0) -> float:
    """Forward FLOPs of one block for one of its rows."""
    heads = config.num_heads * config.head_width
    project = 2 * config.width * (config.head_width * _projected_heads(config) + heads)
    attention_map = 2 * 2 * context * heads
    experts = config.experts
    router = 2 * config.width * experts.num_experts if experts.num_experts > 1 else 0
    return project + attention_map + router + experts.top_k * 3 * 2 * config.width * experts.hidden


def kv_bytes_per_token(config: BackboneConfig, bytes_per_value: int = 2, compression: float | None = None) -> float:
    """Bytes of keys and values kept for one token; concept layers keep one pair for each concept."""
    ratio = 1.0
    if config.chunk is not None:
        ratio = config.chunk.compression if compression is None else compression
    layers = config.encoder_layers + config.decoder_layers + config.concept_layers / ratio
    return layers * 2 * config.num_kv_heads * config.head_width * bytes_per_value


def _projected_heads(config: BackboneConfig) -> int:
    return config.num_heads + 2 * config.num_kv_heads


def _grouped_mm_flops(a_shape: Sequence[int], b_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Products of sorted rows (r a) with weights (e a b), or of (a r) with (r b) for the gradient of the weights."""
    if len(b_shape) == 3:
        return 2 * a_shape[0] * b_shape[1] * b_shape[2]
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


def flop_counter() -> FlopCounterMode:
    """torch's counter of FLOPs, with a formula for grouped products, which it would count as nothing."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_mm_flops})
