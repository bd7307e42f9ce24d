"""What is measured side by side is of one shape, and does what it says."""

from dataclasses import replace

import pytest
import torch

from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.backbone.cost import costs, flop_counter
from vlm.bench.models import PLAIN, VOCABULARY, Ours, Peer, Row, variants
from vlm.bench.train import limit_step, products, train_step

SMALL = replace(
    PLAIN,
    width=32,
    num_heads=2,
    num_kv_heads=1,
    head_width=16,
    concept_layers=2,
    experts=ExpertsConfig(num_experts=4, top_k=2, hidden=16),
)


def chunked(compression: float) -> BackboneConfig:
    return replace(SMALL, chunk=ChunkConfig(compression=compression, tau=None))


@pytest.mark.parametrize("compression", [1.5, 2.0, 4.0])
def test_a_regular_chunker_compresses_by_exactly_its_target(compression: float) -> None:
    row = Row.random(3, 120, torch.device("cpu"))
    model = Ours(chunked(compression)).train()
    out = model.backbone(model.embed(row.ids), row.documents)
    assert out.chunks is not None
    per_document = out.chunks.documents.lengths  # type: ignore[union-attr]
    # A document's first token always closes, which is one more than the regular pattern has.
    assert all(abs(count - 120 / compression) <= 1 for count in per_document)


def test_the_variants_have_the_plain_models_parameters_and_work() -> None:
    plain = costs(PLAIN)
    assert set(variants(2.0)) == {"plain MoE", "1L-top5-R2", "1.5L-top3-R2", "2L-top2-R2"}
    for config in variants(2.0).values():
        assert costs(config).total == pytest.approx(plain.total, rel=0.03)


def test_transformers_model_has_our_plain_models_weights() -> None:
    ours, peer = Ours(SMALL), Peer(SMALL)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
    row = Row.random(2, 16, torch.device("cpu"))
    for model in (ours, peer):
        assert model.loss(row).item() == pytest.approx(torch.tensor(float(VOCABULARY)).log().item(), abs=0.5)  # type: ignore[operator]


def test_products_are_those_that_torch_counts_in_a_step_of_the_plain_model() -> None:
    row = Row.random(2, 64, torch.device("cpu"))
    listed = 3 * sum(2 * rows * a * b * count for (rows, a, b), count in products(SMALL, len(row.ids)).items())
    with flop_counter() as counter:
        train_step(Ours(SMALL), row, torch.float32)()
    assert listed == pytest.approx(counter.get_total_flops(), rel=0.08)  # router, maps, sum of experts: 5.5 % here


def test_the_limit_runs_the_products_and_nothing_more() -> None:
    row = Row.random(2, 64, torch.device("cpu"))
    step = limit_step(SMALL, row, torch.float32)
    with flop_counter() as counter:
        step()
    listed = 3 * sum(2 * rows * a * b * count for (rows, a, b), count in products(SMALL, len(row.ids)).items())
    maps = SMALL.num_layers * 2 * 4 * 64**2 * 32 * 3.5  # of two documents; the backward has five products for two
    assert counter.get_total_flops() == pytest.approx(listed + maps)
