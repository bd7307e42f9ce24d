"""In training a share of the tokens can be concepts of their own: the start of a converted model."""

import pytest
import torch

from tests.vlm.backbone.kinds import SUM
from vlm.backbone import BackboneOutput, ConceptMoE, Documents
from vlm.backbone.chunk import open_up

LENGTHS = [40, 1, 23]


def run(backbone: ConceptMoE, share: float, seed: int = 5) -> BackboneOutput:
    assert backbone.chunker is not None
    backbone.chunker.open_share = share
    x = torch.randn(sum(LENGTHS), SUM.width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(seed)
    out: BackboneOutput = backbone(x, Documents.from_lengths(LENGTHS))
    return out


@pytest.fixture
def backbone() -> ConceptMoE:
    torch.manual_seed(0)
    return ConceptMoE(SUM).double().train()


def test_a_share_of_the_tokens_is_opened_and_the_others_stay_as_they_are() -> None:
    prob = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    closes = prob >= 0.5
    for share in (0.0, 0.3, 1.0):
        torch.manual_seed(2)
        opened, now = open_up(prob, closes, share)
        forced = opened == 1
        assert forced.double().mean().item() == pytest.approx(share, abs=0.01)
        assert bool(now[forced].all())
        assert torch.equal(opened[~forced], prob[~forced])
        assert torch.equal(now[~forced], closes[~forced])


def test_the_router_gets_no_gradient_from_opened_tokens() -> None:
    prob = torch.full((2000,), 0.4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    opened, _ = open_up(prob, prob >= 0.5, 0.5)
    opened.sum().backward()
    assert prob.grad is not None
    assert torch.equal(prob.grad, (opened != 1).double())


def test_with_all_open_every_token_is_a_concept_and_the_router_learns_by_the_ratio_loss_alone(
    backbone: ConceptMoE,
) -> None:
    out = run(backbone, 1.0)
    assert out.chunks is not None
    assert out.chunks.boundary.tolist() == list(range(sum(LENGTHS)))
    assert out.chunks.documents is not None
    assert list(out.chunks.documents.lengths) == LENGTHS
    assert backbone.chunker is not None
    for loss, learns in ((out.hidden.square().sum(), False), (out.losses["ratio"], True)):
        backbone.zero_grad()
        loss.backward(retain_graph=True)
        grad = backbone.chunker.q_proj.weight.grad
        assert (grad is not None and bool(grad.abs().max() > 1e-12)) == learns


def test_what_is_measured_and_held_is_the_router_s_own(backbone: ConceptMoE) -> None:
    shut, half = run(backbone, 0.0), run(backbone, 0.5)
    assert shut.chunks is not None
    assert half.chunks is not None
    assert torch.equal(shut.chunks.prob, half.chunks.prob)
    assert shut.chunks.counts == half.chunks.counts
    assert torch.equal(shut.losses["ratio"], half.losses["ratio"])
    assert len(half.chunks.boundary) > len(shut.chunks.boundary)
    assert not torch.equal(shut.hidden, half.hidden)


def test_evaluation_asks_the_router_alone(backbone: ConceptMoE) -> None:
    backbone.eval()
    assert torch.equal(run(backbone, 1.0).hidden, run(backbone, 0.0, seed=6).hidden)


def test_both_passes_of_recomputed_blocks_see_the_same_opening(backbone: ConceptMoE) -> None:
    gradients = []
    for recompute in (False, True):
        backbone.recompute_blocks = recompute
        backbone.zero_grad()
        run(backbone, 0.5).hidden.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], rtol=1e-10, atol=1e-12) for name in gradients[0])
