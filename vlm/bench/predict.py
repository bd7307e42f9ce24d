"""What the cost model says of a prefill and of a step: the work that decides their speed on an ideal machine.

A long prefill is bound by products, so its FLOPs count, attention maps with them. A step is bound by memory, so the bytes
count that it must read: the weights that its tokens pass through, and the keys and values that they attend to.
"""

from vlm.backbone import BackboneConfig
from vlm.backbone.block import BlockConfig
from vlm.backbone.cost import chunker, flops_per_token, head_flops, joint, layer, linear, norm, projectors, swiglu
from vlm.bench.models import VOCABULARY


def prefill_flops(config: BackboneConfig, batch: int, length: int, compression: float | None) -> float:
    """Forward FLOPs of whole prompts; causal attention at half of its map, and the head for the last tokens alone."""
    tokens = batch * length * flops_per_token(config, (length + 1) / 2, compression)
    return tokens + batch * head_flops(config.width, VOCABULARY)


def step_bytes(
    config: BackboneConfig, batch: int, length: int, closing: int, compression: float | None, bytes_per_value: int
) -> float:
    """Bytes that one token of each sequence makes the machine read.

    Args:
        length: tokens that each sequence holds.
        closing: sequences whose token closes a concept; for a plain model of no account.
        compression: tokens per concept so far; None for a plain model.
    """
    outer, inner = config.token_block, config.concept_block
    token_layers, runs = config.encoder_layers + config.decoder_layers, len(config.concept_order)
    values = layers_read(outer, token_layers, batch) + token_layers * batch * length * _kv_values(outer)
    values += norm(config.width).total + linear(config.width, VOCABULARY).total
    if compression is None:
        return bytes_per_value * (values + layers_read(inner, runs, batch) + runs * batch * length * _kv_values(inner))
    assert config.chunk is not None
    values += chunker(config.width).total
    if config.chunk.joint is not None:
        values += config.decoder_layers * joint(outer).total
    if closing and config.concept_width != config.width:
        values += projectors(config.width, config.concept_width, 1).total
    values += layers_read(inner, runs, closing) + runs * closing * length / compression * _kv_values(inner)
    return bytes_per_value * values


def layers_read(block: BlockConfig, runs: int, rows: int) -> float:
    """Parameters of so many runs of a layer that `rows` tokens read: of the experts those that any of them chooses.

    Expected for choices at random: a row leaves an expert out with probability 1 - top_k / num_experts.
    """
    if not rows:
        return 0.0
    whole = layer(block)
    experts = block.experts
    if experts.num_experts == 1:
        return runs * whole.total
    one = swiglu(block.width, experts.hidden).total
    chosen = experts.num_experts * (1 - (1 - experts.top_k / experts.num_experts) ** rows)
    return runs * (whole.activated + (chosen - experts.top_k) * one)


def _kv_values(block: BlockConfig) -> int:
    return 2 * block.num_kv_heads * block.head_width
