import pytest
import torch
from torch.nn import functional as F

from vlm.training.loss import IGNORED, answered_cross_entropy


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunked_loss_and_gradients_equal_plain_cross_entropy(chunk: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(13, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 13, (20,))
    labels[::3] = IGNORED
    expected = F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED, reduction="sum")
    expected_grads = torch.autograd.grad(2.5 * expected, [hidden, weight])
    loss = answered_cross_entropy(hidden, labels, weight, 13, chunk)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(2.5 * loss, [hidden, weight]), expected_grads)


def test_a_batch_without_answers_has_no_loss_and_zero_gradients() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    loss = answered_cross_entropy(hidden, torch.full((4,), IGNORED), weight)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_loss_under_bf16_autocast_is_near_that_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 32), torch.randn(100, 32)
    labels = torch.randint(0, 100, (50,))
    exact = answered_cross_entropy(hidden, labels, weight)
    with torch.autocast("cpu", torch.bfloat16):
        near = answered_cross_entropy(hidden, labels, weight)
    assert near.dtype == torch.float32
    # bf16 keeps 8 bits of the logits, which are about 6 wide here: 0.5 % of the loss.
    torch.testing.assert_close(near, exact, rtol=5e-3, atol=0)
