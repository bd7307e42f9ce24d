"""The backbone is what a slow loop from the formulas gives: values, losses and gradients, for every kind of it.

Invariants 1 to 9, 13, 17 and 19 of the design notes follow from the formulas; this is their widest test.
"""

import pytest
import torch
from torch import Tensor

from tests.vlm.backbone.kinds import KINDS, backbone_of, places, some_boundaries, train_with, vectors
from tests.vlm.backbone.oracle import Oracle, Slow, losses_by_loop
from vlm.backbone import BackboneOutput, ConceptMoE, Documents

pytestmark = pytest.mark.long

LENGTHS = [7, 1, 4]
IS_IMAGE = torch.arange(12) % 4 == 1


def run_slowly(backbone: ConceptMoE, x: Tensor, closes: Tensor | None, positions: Tensor | None) -> Slow:
    given = None if positions is None else [tuple(row) for row in positions.tolist()]
    return Oracle(backbone).run(x, LENGTHS, None if closes is None else closes.tolist(), given)


def compare(backbone: ConceptMoE, x: Tensor, fast: BackboneOutput, slow: Slow) -> None:
    """Values, and the gradients of the hidden vectors and all losses together with respect to all weights and x.

    float64 leaves errors of about 1e-14; products of gradients over eight runs of a layer make them larger.
    """
    torch.testing.assert_close(fast.hidden, torch.stack(slow.hidden), atol=1e-11, rtol=1e-11)
    losses = losses_by_loop(backbone.config, slow, IS_IMAGE.tolist())
    torch.testing.assert_close(fast.losses, losses, atol=1e-11, rtol=1e-11)
    if fast.chunks is not None:
        torch.testing.assert_close(fast.chunks.prob, torch.stack(slow.prob), atol=1e-12, rtol=0)
        assert fast.chunks.closes.tolist() == slow.closes
        assert fast.chunks.concept_of_token.tolist() == slow.concept_of_token
    out_grad, weights = vectors(len(x), seed=2), dict(zip(sorted(losses), (0.7, -1.3, 2.1, 0.9), strict=False))
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    found = []
    for hidden, every in ((fast.hidden, fast.losses), (torch.stack(slow.hidden), losses)):
        total = (hidden * out_grad).sum() + sum(weights[name] * every[name] for name in weights)
        grads = torch.autograd.grad(total, [x, *parameters], materialize_grads=True)
        found.append(dict(zip(["x", *names], grads, strict=True)))
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_in_evaluation_the_backbone_equals_the_loop(kind: str) -> None:
    """[1-9]"""
    backbone, x = backbone_of(kind), vectors(12).requires_grad_()
    fast = backbone(x, Documents.from_lengths(LENGTHS), is_image=IS_IMAGE)
    compare(backbone, x, fast, run_slowly(backbone, x, None, None))


@pytest.mark.parametrize("kind", KINDS)
def test_in_training_the_backbone_equals_the_loop_over_the_boundaries_that_were_drawn(kind: str) -> None:
    """[1-9] with boundaries where the probability is low, none where it is high, and positions on three axes."""
    backbone, x = backbone_of(kind), vectors(12).requires_grad_()
    closes, positions = some_boundaries(LENGTHS), places(12)
    fast = train_with(backbone, x, LENGTHS, closes, positions, IS_IMAGE)
    compare(backbone, x, fast, run_slowly(backbone, x, closes, positions))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_with_one_concept_a_document_or_as_many_as_tokens_it_equals_the_loop(share: float) -> None:
    """[6] [7]"""
    backbone, x, closes = backbone_of("sum"), vectors(12).requires_grad_(), some_boundaries(LENGTHS, share)
    fast = train_with(backbone, x, LENGTHS, closes)
    compare(backbone, x, fast, run_slowly(backbone, x, closes, None))


@pytest.mark.parametrize("kind", ["sum", "plain"])
def test_in_float32_it_stays_within_rounding_of_the_loop(kind: str) -> None:
    """Grouped products of the experts run in float32 and not in float64."""
    backbone, x, closes = backbone_of(kind), vectors(12), some_boundaries(LENGTHS)
    exact = torch.stack(run_slowly(backbone, x, closes, None).hidden)
    hidden = train_with(backbone.float(), x.float(), LENGTHS, closes).hidden
    # Entries of size 1 after some forty products and norms, each right to 1e-7.
    torch.testing.assert_close(hidden.double(), exact, atol=3e-5, rtol=0)
