import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlm.backbone.chunk import smooth


def smooth_by_loop(concepts: Tensor, prob: Tensor) -> Tensor:
    out = [prob[0] * concepts[0]]
    for concept, p in zip(concepts[1:], prob[1:], strict=True):
        out.append(p * concept + (1 - p) * out[-1])
    return torch.stack(out)


def compare(concepts: Tensor, prob: Tensor, tolerance: float) -> None:
    inputs = (concepts.requires_grad_(), prob.requires_grad_())
    fast, slow = smooth(concepts, prob), smooth_by_loop(concepts, prob)
    assert fast.isfinite().all()
    torch.testing.assert_close(fast, slow, atol=tolerance, rtol=tolerance)
    out_grad = torch.randn_like(fast)
    grads = torch.autograd.grad(fast, inputs, out_grad), torch.autograd.grad(slow, inputs, out_grad)
    torch.testing.assert_close(*grads, atol=10 * tolerance, rtol=10 * tolerance)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 150), st.floats(0, 1))
def test_smoothing_equals_the_recurrence_for_any_length(num_concepts: int, most: float) -> None:
    prob = most * torch.rand(num_concepts, dtype=torch.float64)
    compare(torch.randn(num_concepts, 3, dtype=torch.float64), prob, 1e-10)


@pytest.mark.parametrize(
    ("num_concepts", "value"),
    [(5000, 1e-6), (5000, 0.5), *((n, value) for n in (1, 31, 32, 33) for value in (1.0, 1e-6, 0.0))],
)
def test_smoothing_equals_the_recurrence_for_extreme_probabilities(num_concepts: int, value: float) -> None:
    prob = torch.full((num_concepts,), value, dtype=torch.float64)
    prob[::1000] = 1.0
    compare(torch.randn(num_concepts, 2, dtype=torch.float64), prob, 1e-10)


def test_smoothing_in_float32_stays_within_rounding() -> None:
    prob = torch.rand(2000)
    concepts = torch.randn(2000, 4)
    exact = smooth_by_loop(concepts.double(), prob.double())
    torch.testing.assert_close(smooth(concepts, prob).double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("least", "most", "tolerance"), [(0.5, 1.0, 1e-6), (0.0, 1e-4, 2e-5)])
def test_smoothing_in_float32_over_4096_concepts_is_near_float64(least: float, most: float, tolerance: float) -> None:
    torch.manual_seed(0)
    concepts, prob = torch.randn(4096, 384), least + (most - least) * torch.rand(4096)
    prob[0] = 1.0
    exact = smooth(concepts.double(), prob.double())  # itself held to the recurrence above
    assert (smooth(concepts, prob).double() - exact).abs().max() <= tolerance


def test_smoothing_of_bfloat16_concepts_keeps_its_state_in_float32() -> None:
    concepts, prob = torch.randn(500, 4, dtype=torch.bfloat16), torch.rand(500) * 1e-3
    prob[0] = 1.0
    with torch.autocast("cpu", torch.bfloat16):
        out = smooth(concepts, prob)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, smooth_by_loop(concepts.float(), prob), atol=1e-4, rtol=1e-4)


def test_a_probability_of_one_forgets_all_that_came_before() -> None:
    concepts, prob = torch.randn(70, 4), torch.rand(70)
    prob[40] = 1.0
    changed = concepts.clone()
    changed[:40] = 1e6
    assert torch.equal(smooth(concepts, prob)[40:], smooth(changed, prob)[40:])


def test_what_came_before_enters_at_the_starts() -> None:
    concepts, prob = torch.randn(10, 4, dtype=torch.float64), torch.rand(10, dtype=torch.float64)
    whole = smooth(concepts, prob)
    rest = smooth(concepts[6:], prob[6:], whole[5:6], torch.tensor([0]))
    torch.testing.assert_close(rest, whole[6:])
