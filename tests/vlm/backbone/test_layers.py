import pytest
import torch
import torch.nn.functional as F

from vlm.backbone.layers import RMSNorm, Rotary, SwiGLU, rotate, swiglu


@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (5, 3, 6)])
def test_the_norm_equals_torchs_in_values_and_gradients(shape: tuple[int, ...]) -> None:
    norm = RMSNorm(6, 1e-6).double()
    torch.nn.init.normal_(norm.weight)
    x, grad = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(shape, dtype=torch.float64)
    ours, theirs = norm(x), F.rms_norm(x, (6,), norm.weight, 1e-6)
    torch.testing.assert_close(ours, theirs)
    inputs = (x, norm.weight)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad))


def test_the_norm_of_zeros_is_zero_and_its_gradient_finite() -> None:
    x = torch.zeros(2, 6, requires_grad=True)
    out = RMSNorm(6, 1e-6)(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert (out == 0).all()
    assert grad.isfinite().all()


def test_gradients_of_swiglu_and_of_the_rotation_are_those_of_their_values() -> None:
    x = torch.randn(4, 3, 8, dtype=torch.float64, requires_grad=True)
    angles = Rotary(8, 100.0)(torch.arange(4), x.dtype)
    assert torch.autograd.gradcheck(lambda y: rotate(y, *angles), x)
    flat = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, flat)


def test_a_rotation_keeps_lengths_and_turns_halves_by_the_angle() -> None:
    x = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    cosine, sine = torch.full((1, 1, 2), 0.6), torch.full((1, 1, 2), 0.8)
    torch.testing.assert_close(rotate(x, cosine, sine), torch.tensor([[[0.6, 0.0, 0.8, 0.0]]]))


def test_the_dense_layer_is_swiglu_between_projections() -> None:
    layer, x = SwiGLU(6, 10), torch.randn(3, 6)
    expected = layer.down_proj(F.silu(layer.gate_proj(x)) * layer.up_proj(x))
    torch.testing.assert_close(layer(x), expected)
    both = torch.cat([layer.gate_proj(x), layer.up_proj(x)], -1)
    torch.testing.assert_close(layer.down_proj(swiglu(both)), expected)


def test_rotation_of_bfloat16_heads_keeps_their_type() -> None:
    x = torch.randn(4, 2, 8, dtype=torch.bfloat16)
    out = rotate(x, *Rotary(8, 100.0)(torch.arange(4), x.dtype))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out[0], x[0])
