from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlm.backbone import (
    BackboneConfig,
    ChunkConfig,
    ConceptConfig,
    ConceptMoE,
    Documents,
    ExpertsConfig,
    LoopConfig,
)
from vlm.backbone.cost import (
    chunker,
    costs,
    count_parameters,
    experts,
    flop_counter,
    flops_per_token,
    head_flops,
    joint,
    kv_bytes_per_token,
    layer,
    projectors,
)
from vlm.backbone.experts import SparseFeedForward

CONFIG = BackboneConfig(
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=4, top_k=2, hidden=64),
    chunk=ChunkConfig(compression=2.0),
)
PLAIN = replace(CONFIG, chunk=None)
OWN_EXPERTS = ExpertsConfig(num_experts=3, top_k=1, hidden=40)
WIDE = ConceptConfig(width=48, num_heads=6, num_kv_heads=3, experts=OWN_EXPERTS)
LOOP = ConceptConfig(loop=LoopConfig(first=1, layers=1, passes=3))
KINDS = {
    "plain": PLAIN,
    "plain looped": replace(PLAIN, concept=LOOP),
    "dense": replace(PLAIN, experts=ExpertsConfig(num_experts=1, top_k=1, hidden=64)),
    "dense chunked": replace(CONFIG, experts=ExpertsConfig(num_experts=1, top_k=1, hidden=64)),
    "sum": CONFIG,
    "last": replace(CONFIG, chunk=ChunkConfig(compression=2.0, merge="last")),
    "joint none": replace(CONFIG, chunk=ChunkConfig(compression=2.0, joint=None)),
    "wide": replace(CONFIG, concept=WIDE),
    "wide delta": replace(CONFIG, concept=WIDE, chunk=ChunkConfig(compression=2.0, residual="delta")),
    "wide delta, joint none": replace(
        CONFIG, concept=WIDE, chunk=ChunkConfig(compression=2.0, residual="delta", joint=None)
    ),
    "looped": replace(CONFIG, concept=LOOP),
    "shared expert": replace(CONFIG, experts=ExpertsConfig(num_experts=4, top_k=2, hidden=64, shared_hidden=24)),
    "biases": replace(CONFIG, qk_norm="all", attention_bias="qkvo"),
    "biases on q, k, v, no norms": replace(CONFIG, qk_norm=None, attention_bias="qkv"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_counted_from_a_config_are_those_of_its_module(kind: str) -> None:
    cost, count = costs(KINDS[kind]), count_parameters(ConceptMoE(KINDS[kind]))
    assert (cost.total, cost.activated) == (count.total, count.activated)


@pytest.mark.parametrize("kind", KINDS)
def test_flops_counted_from_a_config_are_those_that_torch_counts(kind: str) -> None:
    """[18] At the compression of that very run; torch counts whole attention maps, also of what causality masks."""
    torch.manual_seed(0)
    num_tokens = 2048
    backbone = ConceptMoE(KINDS[kind]).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), flop_counter() as counter:
        chunks = backbone(torch.randn(num_tokens, 32), Documents.from_lengths([num_tokens])).chunks
    measured = None if chunks is None else num_tokens / len(chunks.boundary)
    expected = num_tokens * flops_per_token(KINDS[kind], context=float(num_tokens), compression=measured)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_flops_of_single_tokens_are_those_that_torch_counts(kind: str) -> None:
    """Attention maps are most of a long document's work, and would hide a part that is left out."""
    backbone, lengths = ConceptMoE(KINDS[kind]).eval(), [1] * 1024
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), flop_counter() as counter:
        backbone(torch.randn(1024, 32), Documents.from_lengths(lengths))
    measured = None if KINDS[kind].chunk is None else 1.0
    expected = 1024 * flops_per_token(KINDS[kind], context=1.0, compression=measured)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_a_training_step_does_three_times_the_work_of_a_forward_pass() -> None:
    backbone, x = ConceptMoE(PLAIN), torch.randn(256, 32, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH), flop_counter() as counter:
        backbone(x, Documents.from_lengths([1] * 256)).hidden.sum().backward()
    assert counter.get_total_flops() == pytest.approx(3 * 256 * flops_per_token(PLAIN, context=1.0), rel=0.01)


def test_flops_of_experts_are_exactly_those_that_torch_counts() -> None:
    """All products of a layer of experts, the sum that combines them included."""
    layer_of_experts = SparseFeedForward(32, PLAIN.experts)
    with flop_counter() as counter:
        layer_of_experts(torch.randn(300, 32))
    assert counter.get_total_flops() == 300 * experts(PLAIN.token_block).flops


def test_activated_parameters_leave_out_the_experts_that_were_not_chosen() -> None:
    cost, expert = costs(CONFIG), 3 * 32 * 64
    assert cost.total - cost.activated == 4 * (4 - 2) * expert


def test_frozen_parameters_are_not_trainable() -> None:
    backbone = ConceptMoE(CONFIG)
    backbone.encoder.requires_grad_(False)
    count = count_parameters(backbone)
    assert count.total - count.trainable == sum(p.numel() for p in backbone.encoder.parameters())


def test_concept_layers_cost_a_share_of_what_they_would_on_tokens() -> None:
    bare = replace(CONFIG, chunk=ChunkConfig(compression=2.0, joint=None))
    one = layer(CONFIG.token_block).flops
    extra = flops_per_token(bare) - 2 * one - 2 * one / 2
    assert extra == chunker(32).flops + 2 * 33 * 32 / 2  # the router, and the smoothing of a concept for two tokens
    assert flops_per_token(CONFIG) - flops_per_token(bare) == joint(CONFIG.token_block).flops
    assert flops_per_token(bare) - flops_per_token(bare, compression=4.0) == 2 * (one / 2 - one / 4) + 2 * 33 * 32 / 4


def test_the_delta_residual_brings_two_views_of_a_concept_back_to_the_tokens_width() -> None:
    assert projectors(32, 48, 2).flops - projectors(32, 48, 1).flops == 2 * 48 * 32
    assert projectors(32, 48, 2).total == projectors(32, 48, 1).total == 2 * 48 * 32


def test_a_loop_costs_flops_and_keys_but_no_parameters() -> None:
    looped = replace(PLAIN, concept=LOOP)
    assert costs(looped).total == costs(PLAIN).total
    assert costs(looped).text.flops - costs(PLAIN).text.flops == 2 * layer(PLAIN.concept_block).flops
    assert costs(looped).text.kv_bytes == costs(PLAIN).text.kv_bytes * 6 / 4


def test_text_and_image_tokens_are_counted_at_compressions_of_their_own() -> None:
    config = replace(CONFIG, chunk=ChunkConfig(compression=1.5, compression_image=3.0))
    cost = costs(config, vision_flops=1e6)
    assert cost.text.flops == flops_per_token(config, compression=1.5)
    assert cost.image.flops == flops_per_token(config, compression=3.0) + 1e6
    assert cost.image.kv_bytes == kv_bytes_per_token(config, compression=3.0)
    assert costs(config, measured=(2.0, 2.0)).text == costs(config, measured=(2.0, 2.0)).image


def test_bytes_of_keys_and_values_equal_those_of_a_cache() -> None:
    backbone = ConceptMoE(PLAIN).eval()
    cache = backbone.new_cache(1, 10)
    backbone.prefill(torch.randn(10, 32), Documents.from_lengths([10]), cache)
    kept = [x for x in (*cache.tokens.keys, *cache.tokens.values) if x is not None]
    assert sum(x.numel() * x.element_size() for x in kept) == 10 * kv_bytes_per_token(PLAIN, bytes_per_value=4)
    assert kv_bytes_per_token(CONFIG) == kv_bytes_per_token(PLAIN) * 3 / 4


def test_the_head_is_a_product_with_the_embedding() -> None:
    with flop_counter() as counter:
        torch.randn(1, 32) @ torch.randn(100, 32).T
    assert counter.get_total_flops() == head_flops(32, 100)


def test_a_compression_for_a_plain_model_or_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got a compression of 2, 3 but chunk is null"):
        costs(PLAIN, measured=(2.0, 3.0))
    with pytest.raises(ValueError, match=r"cannot be below 1, got 2, 0\.5"):
        costs(CONFIG, measured=(2.0, 0.5))
