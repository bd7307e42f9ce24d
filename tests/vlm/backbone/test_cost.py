from dataclasses import replace

import pytest
import torch

from vlm.backbone import BackboneConfig, ChunkConfig, ConceptMoE, Documents, ExpertsConfig
from vlm.backbone.cost import count_parameters, flop_counter, flops_per_token, kv_bytes_per_token

CONFIG = BackboneConfig(
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=4, top_k=2, hidden=16),
    chunk=ChunkConfig(compression=2.0),
)
PLAIN = replace(CONFIG, chunk=None)


def test_activated_parameters_leave_out_the_experts_that_were_not_chosen() -> None:
    count = count_parameters(ConceptMoE(CONFIG))
    expert = 3 * 32 * 16
    assert count.total - count.activated == 4 * (4 - 2) * expert
    assert count.total == sum(p.numel() for p in ConceptMoE(CONFIG).parameters())


def test_frozen_parameters_are_not_trainable() -> None:
    backbone = ConceptMoE(CONFIG)
    backbone.encoder.requires_grad_(False)
    count = count_parameters(backbone)
    assert count.total - count.trainable == sum(p.numel() for p in backbone.encoder.parameters())


@pytest.mark.parametrize("config", [PLAIN, replace(PLAIN, experts=ExpertsConfig(num_experts=1, top_k=1, hidden=64))])
def test_flops_of_a_plain_model_are_those_that_torch_counts(config: BackboneConfig) -> None:
    backbone = ConceptMoE(config).eval()
    with torch.no_grad(), flop_counter() as counter:
        backbone(torch.randn(64, 32), Documents.from_lengths([64]))
    # torch counts dense attention maps, and the small product that combines the chosen experts.
    combine = 2 * config.experts.top_k * 32 * config.num_layers if config.experts.num_experts > 1 else 0
    assert counter.get_total_flops() == 64 * (flops_per_token(config, context=64.0) + combine)


def test_flops_of_a_chunked_model_follow_the_measured_compression() -> None:
    torch.manual_seed(0)
    backbone = ConceptMoE(CONFIG).eval()
    with torch.no_grad(), flop_counter() as counter:
        chunks = backbone(torch.randn(600, 32), Documents.from_lengths([600])).chunks
    assert chunks is not None
    compression = 600 / len(chunks.boundary)
    expected = 600 * flops_per_token(CONFIG, context=600.0, compression=compression)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)  # smoothing and combining are extra


def test_concept_layers_cost_a_share_of_what_they_would_on_tokens() -> None:
    layer = flops_per_token(replace(PLAIN, encoder_layers=0, decoder_layers=0, concept_layers=1))
    joint = 2 * 32 * 8 * (4 + 2 * 2)
    assert flops_per_token(CONFIG) == pytest.approx(2 * layer + 2 * layer / 2 + joint + 4 * 32 * 32)
    assert flops_per_token(CONFIG, compression=4.0) == pytest.approx(2 * layer + 2 * layer / 4 + joint + 4 * 32 * 32)


def test_bytes_of_keys_and_values_equal_those_of_a_cache() -> None:
    backbone = ConceptMoE(PLAIN).eval()
    cache = backbone.new_cache(1, 10)
    backbone.prefill(torch.randn(10, 32), Documents.from_lengths([10]), cache)
    kept = [x for x in (*cache.tokens.keys, *cache.tokens.values) if x is not None]
    assert sum(x.numel() * x.element_size() for x in kept) == 10 * kv_bytes_per_token(PLAIN, bytes_per_value=4)
    assert kv_bytes_per_token(CONFIG) == kv_bytes_per_token(PLAIN) * 3 / 4
