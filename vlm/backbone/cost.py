"""What a backbone costs: parameters, FLOPs for a token, bytes of keys and values for a token; all from its config alone.

One small function for each part, named after the `forward` whose products it counts; the tests hold every one to what
torch counts. Products only: norms, rotations, softmax and other elementwise work are left out, and so are biases. The
backbone's input and output are vectors: the embedding, the head and the vision tower are its caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vlm.backbone.block import BlockConfig
from vlm.backbone.config import BackboneConfig
from vlm.backbone.experts import SparseFeedForward
from vlm.backbone.scan import CHUNK


@dataclass(frozen=True)
class Part:
    """What a part has, and what it does for one of its rows (a token, or a concept)."""

    total: int = 0  # parameters
    activated: int = 0  # parameters that one row passes through
    flops: int = 0  # forward; a multiply-add is 2

    def __add__(self, other: "Part") -> "Part":
        return Part(self.total + other.total, self.activated + other.activated, self.flops + other.flops)

    def stacked(self, layers: int, runs: int | None = None) -> "Part":
        """Several such layers; a loop runs some of them again, with no parameters more."""
        return Part(self.total * layers, self.activated * layers, self.flops * (layers if runs is None else runs))


@dataclass(frozen=True)
class TokenCosts:
    """What one token of a kind costs, with the concept layers' share of it."""

    flops: float  # forward, without attention maps
    map_flops: float  # forward, of the attention maps, for each token that it attends to
    kv_bytes: float  # keys and values kept for it


@dataclass(frozen=True)
class Costs:
    """What a backbone costs."""

    total: int  # parameters
    activated: int  # parameters that one token passes through, whether or not it closes a concept
    text: TokenCosts
    image: TokenCosts  # with the vision tower and the connector where their FLOPs are given


def costs(
    config: BackboneConfig,
    *,
    measured: tuple[float, float] | None = None,
    vision_flops: float = 0.0,
    bytes_per_value: int = 2,
) -> Costs:
    """Parameters, and the costs of a text and of an image token.

    Args:
        measured: tokens per concept of text and of image tokens, as an evaluation gave them; the targets where None.
        vision_flops: what the vision tower and the connector do for one image vector.
        bytes_per_value: of keys and values; 2 for bfloat16.

    Raises:
        ValueError: a compression below 1, or one for a model without a chunker.
    """
    text, image = _compression(config, measured)
    every = sum([*token_parts(config).values(), *concept_parts(config).values()], Part())
    kinds = [
        TokenCosts(
            _flops(config, ratio) + vision, _map_flops(config, ratio), _kv_values(config, ratio) * bytes_per_value
        )
        for ratio, vision in ((text, 0.0), (image, vision_flops))
    ]
    return Costs(every.total, every.activated, *kinds)


def flops_per_token(config: BackboneConfig, context: float = 0.0, compression: float | None = None) -> float:
    """Forward FLOPs for one token.

    Args:
        context: tokens that a token attends to on average; 0 leaves the attention maps out, as the paper does. For
            whole documents of n tokens it is (n + 1) / 2; kernels that do not skip the masked half do n.
        compression: measured tokens per concept; the target (of text tokens) where None.
    """
    ratio, _ = _compression(config, None if compression is None else (compression, compression))
    return _flops(config, ratio) + context * _map_flops(config, ratio)


def kv_bytes_per_token(config: BackboneConfig, bytes_per_value: int = 2, compression: float | None = None) -> float:
    """Bytes of keys and values kept for one token: a pair for each run of a layer, of concept layers one a concept."""
    ratio, _ = _compression(config, None if compression is None else (compression, compression))
    return _kv_values(config, ratio) * bytes_per_value


def token_parts(config: BackboneConfig) -> dict[str, Part]:
    """What runs once for each token, by name; in a plain model that is everything."""
    chunk, block = config.chunk, config.token_block
    parts = {"encoder layers": layer(block).stacked(config.encoder_layers)}
    if chunk is None:
        parts["concept layers"] = _concept_layers(config)
    else:
        parts["chunker's router"] = chunker(config.width)
    parts["decoder layers"] = layer(block).stacked(config.decoder_layers)
    if chunk is not None and chunk.joint is not None:
        parts["joint projections"] = joint(block).stacked(config.decoder_layers)
    return parts | {"last norm": norm(config.width)}


def concept_parts(config: BackboneConfig) -> dict[str, Part]:
    """What runs once for each concept, by name; nothing in a plain model."""
    chunk = config.chunk
    if chunk is None:
        return {}
    views = 2 if chunk.residual == "delta" and chunk.joint is not None else 1
    parts = {"concept layers": _concept_layers(config), "smoothing": smoothing(views * config.width)}
    if config.concept_width != config.width:
        parts["projectors"] = projectors(config.width, config.concept_width, views)
    return parts


def layer(block: BlockConfig) -> Part:
    """One block without its attention map (`Block.forward`)."""
    return norm(block.width).stacked(2) + attention(block) + experts(block)


def linear(inputs: int, outputs: int, bias: bool = False) -> Part:
    """A matrix (`nn.Linear.forward`)."""
    size = inputs * outputs + bias * outputs
    return Part(size, size, 2 * inputs * outputs)


def norm(width: int) -> Part:
    """`RMSNorm.forward`; elementwise."""
    return Part(width, width)


def attention(block: BlockConfig) -> Part:
    """Projections and their norms, without the joint ones (`Attention.forward`)."""
    queries, keys = block.num_heads * block.head_width, block.num_kv_heads * block.head_width
    bias = block.attention_bias is not None
    norms = {"head": norm(block.head_width).stacked(2), "all": norm(queries) + norm(keys), None: Part()}
    return (
        linear(block.width, queries, bias)
        + linear(block.width, keys, bias).stacked(2)
        + linear(queries, block.width, block.attention_bias == "qkvo")
        + norms[block.qk_norm]
    )


def attention_map(block: BlockConfig) -> int:
    """FLOPs of one query with one key and its value (`attend`)."""
    return 2 * 2 * block.num_heads * block.head_width


def joint(block: BlockConfig) -> Part:
    """The second projections of a decoder layer, of the concept that a token sees (`Attention.forward`)."""
    keys = linear(block.width, block.num_kv_heads * block.head_width)
    return norm(block.width) + linear(block.width, block.num_heads * block.head_width) + keys.stacked(2)


def swiglu(width: int, hidden: int) -> Part:
    """A dense feed-forward layer, a shared expert, or one expert (`SwiGLU.forward`)."""
    return linear(width, hidden).stacked(2) + linear(hidden, width)


def experts(block: BlockConfig) -> Part:
    """Router, chosen experts, the sum that combines them, and the shared expert (`SparseFeedForward.forward`)."""
    sizes, width = block.experts, block.width
    one = swiglu(width, sizes.hidden)
    if sizes.num_experts == 1:
        return one
    chosen = Part(one.total * sizes.num_experts, one.activated * sizes.top_k, expert_flops(block) * sizes.top_k)
    return expert_router(block) + chosen + (swiglu(width, sizes.shared_hidden) if sizes.shared_hidden else Part())


def expert_flops(block: BlockConfig) -> int:
    """FLOPs that one more chosen expert adds: its own, and its place in the weighted sum (`Experts.forward`)."""
    return swiglu(block.width, block.experts.hidden).flops + 2 * block.width


def expert_router(block: BlockConfig) -> Part:
    """`Router.choose`."""
    return linear(block.width, block.experts.num_experts)


def chunker(width: int) -> Part:
    """The router that finds boundaries: queries and keys (`Chunker.prob`, `Chunker.keys`). Merging only adds."""
    return linear(width, width).stacked(2)


def smoothing(width: int) -> Part:
    """The moving average over concepts (`smooth`), whose scan is a product with a matrix for each chunk of concepts."""
    return Part(flops=round(2 * CHUNK * width * (1 + 1 / CHUNK)))


def projectors(width: int, concept_width: int, views: int) -> Part:
    """To the concept layers' width and back, once for each view of a concept (`ConceptMoE.run_concepts`)."""
    return linear(width, concept_width) + linear(concept_width, width).stacked(1, runs=views)


def head_flops(width: int, vocab_size: int) -> int:
    """Of one token that gets logits (`VisionLanguageModel.logits`): in training the answered ones, else the last one."""
    return linear(width, vocab_size).flops


def _concept_layers(config: BackboneConfig) -> Part:
    return layer(config.concept_block).stacked(config.concept_layers, runs=len(config.concept_order))


def _compression(config: BackboneConfig, measured: tuple[float, float] | None) -> tuple[float, float]:
    """Tokens per concept of text and of image tokens."""
    chunk = config.chunk
    if measured is not None:
        if chunk is None:
            raise ValueError(f"got a compression of {measured[0]:g}, {measured[1]:g} but chunk is null; give none")
        if min(measured) < 1:
            raise ValueError(
                f"compression is tokens per concept and cannot be below 1, got {measured[0]:g}, {measured[1]:g}"
            )
        return measured
    if chunk is None:
        return 1.0, 1.0
    return chunk.compression, chunk.compression if chunk.compression_image is None else chunk.compression_image


def _flops(config: BackboneConfig, compression: float) -> float:
    tokens, concepts = (sum(part.values(), Part()) for part in (token_parts(config), concept_parts(config)))
    return tokens.flops + concepts.flops / compression


def _map_flops(config: BackboneConfig, compression: float) -> float:
    """For each token attended to; a concept sees 1 / compression as many, and there are 1 / compression as many."""
    tokens = (config.encoder_layers + config.decoder_layers) * attention_map(config.token_block)
    return tokens + len(config.concept_order) * attention_map(config.concept_block) / compression**2


def _kv_values(config: BackboneConfig, compression: float) -> float:
    outer, inner = (2 * block.num_kv_heads * block.head_width for block in (config.token_block, config.concept_block))
    return (config.encoder_layers + config.decoder_layers) * outer + len(config.concept_order) * inner / compression


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a module."""

    total: int
    activated: int  # those that one token passes through: of a layer's experts the chosen ones
    trainable: int


def count_parameters(module: nn.Module) -> ParameterCount:
    """Count a module's parameters, each once, however often it is shared."""
    idle = 0
    for part in module.modules():
        if isinstance(part, SparseFeedForward):
            num_experts = part.gate.out_features
            size = sum(parameter.numel() for parameter in part.experts.parameters())
            idle += size // num_experts * (num_experts - part.gate.top_k)
    parameters = list(module.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    return ParameterCount(total, total - idle, sum(p.numel() for p in parameters if p.requires_grad))


def _grouped_mm_flops(a_shape: Sequence[int], b_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Products of sorted rows (r a) with weights (e a b), or of (a r) with (r b) for the gradient of the weights."""
    if len(b_shape) == 3:
        return 2 * a_shape[0] * b_shape[1] * b_shape[2]
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


def flop_counter() -> FlopCounterMode:
    """torch's counter of FLOPs, with a formula for grouped products, which it would count as nothing."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_mm_flops})
