"""The experts' work on a GPU, and of few rows: one grouped product, gate and up fused, without a wait for any count.

In: token vectors (n d) and the (token, choice) pairs sorted by expert. Out: each pair's vector, back in the tokens' order.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlm.backbone.layers import swiglu


@cache
@torch.compiler.assume_constant_result
def _has_grouped_mm(device: str, dtype: torch.dtype) -> bool:
    """Whether grouped_mm runs here, forward and backward. CPU refuses float64; versions and GPUs differ."""
    if not hasattr(F, "grouped_mm"):
        return False
    try:
        # The answer is kept: asked first during inference, it must be the same.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            rows = torch.ones(16, 16, device=device, dtype=dtype, requires_grad=True)
            weight = torch.ones(2, 16, 16, device=device, dtype=dtype, requires_grad=True)
            ends = torch.tensor([0, 16], device=device, dtype=torch.int32)
            out = F.grouped_mm(rows, weight.transpose(-2, -1), offs=ends)
            out.backward(torch.ones_like(out))
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    return True


def can_group(x: Float[Tensor, "n d"], *weights: Float[Tensor, "e _ _"]) -> bool:
    """Whether grouped_mm takes these; it wants strides of 16 bytes."""
    aligned = all(size * x.element_size() % 16 == 0 for weight in weights for size in weight.shape[1:])
    return aligned and _has_grouped_mm(x.device.type, x.dtype)


class _Dispatch(torch.autograd.Function):
    """Copy each token's vector to the rows of its experts. Backward sums them by a gather, not an index_add."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, order: Tensor, row_of_pair: Tensor, top_k: int
    ) -> Tensor:
        ctx.save_for_backward(row_of_pair)
        ctx.top_k = top_k
        return x.index_select(0, order.div(top_k, rounding_mode="floor"))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        (row_of_pair,) = ctx.saved_tensors
        return grad.index_select(0, row_of_pair).unflatten(0, (-1, ctx.top_k)).sum(1), None, None, None


class _Return(torch.autograd.Function):
    """Rows sorted by expert back to the order of (token, expert) pairs: a permutation, so backward is its inverse."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, row_of_pair: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(order)
        return rows.index_select(0, row_of_pair)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order), None, None


def run_grouped(
    x: Float[Tensor, "n d"],
    weight: Float[Tensor, "n top"],
    order: Int[Tensor, " pairs"],
    ends: Int[Tensor, " e"],
    gate_up: Float[Tensor, "e two_f d"],
    down: Float[Tensor, "e d f"],
) -> Float[Tensor, "n d"]:
    """What `dispatch.run_experts` says, with all experts at once."""
    row_of_pair = torch.empty_like(order)
    row_of_pair[order] = torch.arange(order.shape[0], device=order.device)
    rows = _Dispatch.apply(x, order, row_of_pair, weight.shape[1])
    inner = swiglu(F.grouped_mm(rows, gate_up.transpose(-2, -1), offs=ends))
    out = F.grouped_mm(inner, down.transpose(-2, -1), offs=ends)
    pairs = _Return.apply(out, order, row_of_pair).unflatten(0, weight.shape)
    return torch.bmm(weight.to(pairs.dtype)[:, None], pairs).squeeze(1)
