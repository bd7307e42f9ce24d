"""The experts' work on a CPU, as one opaque operation: gather each expert's rows, SwiGLU, and the weighted sum.

How many rows an expert has is data: torch.compile must not look inside, or it would break its graph at every count. So
forward and backward are `torch.library` operations whose arguments are tensors, and whose outputs have shapes known from
those. Experts come one after another, each in pieces of rows, so that products and elementwise work meet their operands in
the core's cache; backward knows the sigmoid from forward, and needs no second exponential. Measured on one core, forward
and backward with the router: at 4,096 tokens of 128 and top-2 of 8 experts of 256, 44 instead of 54 ms for grouped products
and SwiGLU over all rows at once; at 2,048 of 384 and top-2 of 16 of 512, 102 instead of 107 ms.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vlm.backbone.grouped import can_group, run_grouped

FEW_ROWS = 64  # of one expert, on average
PIECE_ROWS = 512  # of one expert, for each thread


@dataclass(frozen=True)
class _Share:
    """The sorted rows of one expert, whole and in pieces."""

    expert: int
    first: int
    count: int
    pieces: tuple[tuple[int, int], ...]


def _shares(ends: Tensor) -> list[_Share]:
    size, first, shares = PIECE_ROWS * torch.get_num_threads(), 0, []
    for expert, end in enumerate(ends.tolist()):
        pieces = tuple((start, min(start + size, end)) for start in range(first, end, size))
        shares.append(_Share(expert, first, end - first, pieces))
        first = end
    return shares


def _sources(order: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The token of each sorted row, and the sorted row of each (token, choice) pair."""
    row_of_pair = torch.empty_like(order)
    row_of_pair[order] = torch.arange(order.shape[0], device=order.device)
    return order.div(weight.shape[1], rounding_mode="floor"), row_of_pair


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _gather(source: Tensor, index: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sums over the last axis of `index` of rows of `source`, weighted; one pass over memory."""
    return F.embedding_bag(index, source, mode="sum", per_sample_weights=weight)


@torch.library.custom_op("conceptvlm::experts", mutates_args=())
def _experts(
    x: Tensor, weight: Tensor, order: Tensor, ends: Tensor, gate_up: Tensor, down: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_pairs, hidden = order.shape[0], down.shape[2]
    token, row_of_pair = _sources(order, weight)
    shares = _shares(ends)
    out = x.new_empty(num_pairs, x.shape[1])
    kept = x.new_empty(num_pairs if keep else 0, 2 * hidden)
    opening = x.new_empty(len(kept), hidden, dtype=_exact(x))
    largest = max(end - start for share in shares for start, end in share.pieces)
    rows, inner, hiddens = (x.new_empty(largest, width) for width in (x.shape[1], 2 * hidden, hidden))
    for share in shares:
        first_weight, second_weight = gate_up[share.expert].T, down[share.expert].T
        for start, end in share.pieces:
            size = end - start
            torch.index_select(x, 0, token[start:end], out=rows[:size])
            gate_and_up = torch.mm(rows[:size], first_weight, out=kept[start:end] if keep else inner[:size])
            gate, up = gate_and_up[:, :hidden], gate_and_up[:, hidden:]
            if keep:
                sigmoid = torch.sigmoid(gate.to(opening.dtype), out=opening[start:end])
                torch.mul(gate, sigmoid, out=hiddens[:size]).mul_(up)
            else:
                torch.ops.aten.silu.out(gate, out=hiddens[:size]).mul_(up)  # a third less time, and no sigmoid
            torch.mm(hiddens[:size], second_weight, out=out[start:end])
    mixed = _gather(out, row_of_pair.view_as(weight), weight.to(out.dtype))
    return mixed, kept, opening, out if keep else out.new_empty(0, x.shape[1]), row_of_pair


@_experts.register_fake
def _(
    x: Tensor, weight: Tensor, order: Tensor, ends: Tensor, gate_up: Tensor, down: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    kept = order.shape[0] if keep else 0
    inner, out = x.new_empty(kept, gate_up.shape[1]), x.new_empty(kept, x.shape[1])
    opening = x.new_empty(kept, down.shape[2], dtype=_exact(x))
    return torch.empty_like(x), inner, opening, out, torch.empty_like(order)


@torch.library.custom_op("conceptvlm::experts_backward", mutates_args=())
def _experts_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    order: Tensor,
    ends: Tensor,
    gate_up: Tensor,
    down: Tensor,
    kept: Tensor,
    opening: Tensor,
    out: Tensor,
    row_of_pair: Tensor,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    token = order.div(weight.shape[1], rounding_mode="floor")
    sorted_weight = weight.flatten()[order].to(out.dtype)
    weight_grad = torch.empty_like(weight).flatten()
    gate_up_grad, down_grad = (torch.empty_like(part) if learns else part.new_empty(0) for part in (gate_up, down))
    rows_grad = torch.empty_like(out)
    shares, width, hidden = _shares(ends), x.shape[1], down.shape[2]
    largest = max(share.count for share in shares)
    rows, grads, inner_grads, hiddens = (x.new_empty(largest, size) for size in (width, width, 2 * hidden, hidden))
    (gates, ups), (gate_grads, up_grads) = kept.chunk(2, dim=1), inner_grads.chunk(2, dim=1)
    piece_rows = max(end - start for share in shares for start, end in share.pieces)
    open_gates, hidden_grads = (opening.new_empty(piece_rows, hidden), x.new_empty(piece_rows, hidden))
    for share in shares:
        for start, end in share.pieces:
            size, here = end - start, slice(start - share.first, end - share.first)
            gate, up, gate_grad, up_grad = gates[start:end], ups[start:end], gate_grads[here], up_grads[here]
            piece = torch.index_select(grad, 0, token[start:end], out=grads[here])
            weight_grad[start:end] = torch.mul(piece, out[start:end], out=rows[here]).sum(1)
            piece *= sorted_weight[start:end, None]
            hidden_grad = torch.mm(piece, down[share.expert], out=hidden_grads[:size])
            sigmoid = opening[start:end]
            open_gate = torch.mul(gate, sigmoid, out=open_gates[:size])
            torch.mul(open_gate, up, out=hiddens[here])
            torch.mul(open_gate, hidden_grad, out=up_grad)
            slope = open_gate.addcmul_(open_gate, sigmoid, value=-1).add_(sigmoid)
            torch.mul(hidden_grad.mul_(up), slope, out=gate_grad)
            torch.mm(inner_grads[here], gate_up[share.expert], out=rows_grad[start:end])
        if learns and share.count:
            mine = slice(share.first, share.first + share.count)
            torch.index_select(x, 0, token[mine], out=rows[: share.count])
            torch.mm(grads[: share.count].T, hiddens[: share.count], out=down_grad[share.expert])
            torch.mm(inner_grads[: share.count].T, rows[: share.count], out=gate_up_grad[share.expert])
        elif learns:
            down_grad[share.expert].zero_()
            gate_up_grad[share.expert].zero_()
    x_grad = _gather(rows_grad, row_of_pair.view_as(weight))
    return x_grad, weight_grad[row_of_pair].view_as(weight), gate_up_grad, down_grad


@_experts_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    order: Tensor,
    ends: Tensor,
    gate_up: Tensor,
    down: Tensor,
    kept: Tensor,
    opening: Tensor,
    out: Tensor,
    row_of_pair: Tensor,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = (torch.empty_like(gate_up), torch.empty_like(down)) if learns else (x.new_empty(0), x.new_empty(0))
    return torch.empty_like(x), torch.empty_like(weight), *weights


def _keep_for_backward(ctx, inputs: tuple, output: tuple) -> None:  # type: ignore[no-untyped-def]
    *tensors, _ = inputs
    ctx.set_materialize_grads(False)  # or backward would be given zeros as large as what is kept
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    if grad is None:
        return (None,) * 7
    learns = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
    x_grad, weight_grad, gate_up_grad, down_grad = _experts_backward(grad.contiguous(), *ctx.saved_tensors, learns)
    return x_grad, weight_grad, None, None, gate_up_grad if learns else None, down_grad if learns else None, None


_experts.register_autograd(_backward, setup_context=_keep_for_backward)


def _products(x: torch.Size, order: torch.Size, gate_up: torch.Size, down: torch.Size) -> int:
    return 2 * order[0] * x[1] * (gate_up[1] + down[2])


def _mix(x: torch.Size, order: torch.Size) -> int:
    """The weighted sum of the experts' outputs."""
    return 2 * order[0] * x[1]


@register_flop_formula(torch.ops.conceptvlm.experts)
def _forward_flops(x, weight, order, ends, gate_up, down, *args, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return _products(x, order, gate_up, down) + _mix(x, order)


@register_flop_formula(torch.ops.conceptvlm.experts_backward)
def _backward_flops(grad, x, weight, order, ends, gate_up, down, *kept, **kwargs) -> int:  # type: ignore[no-untyped-def]
    # The sum has a gradient to its weights and one to the outputs, whether or not the experts learn.
    return _products(x, order, gate_up, down) * (2 if kept[-1] else 1) + 2 * _mix(x, order)


def runs_grouped(x: Tensor, num_pairs: int, gate_up: Tensor, down: Tensor, keep: bool) -> bool:
    """On a GPU always; on a CPU in generation, where each expert has few rows and the calls would take longest.

    A row of 128 through the top-2 of 8 experts takes 66 instead of 132 microseconds; the two meet at 128 rows an expert.
    """
    few = not keep and not torch.compiler.is_compiling() and num_pairs < FEW_ROWS * gate_up.shape[0]
    return (x.is_cuda or few) and can_group(x, gate_up, down)


def run_experts(
    x: Float[Tensor, "n d"],
    weight: Float[Tensor, "n top"],
    order: Int[Tensor, " pairs"],
    ends: Int[Tensor, " e"],
    gate_up: Float[Tensor, "e two_f d"],
    down: Float[Tensor, "e d f"],
) -> Float[Tensor, "n d"]:
    """What each token's experts make of it, weighted and added up.

    Args:
        weight: of each token's choices.
        order: the (token, choice) pairs sorted by expert, as indices into the flattened `weight`.
        ends: how many of the sorted pairs belong to this expert or one before it; int32.
    """
    keep = torch.is_grad_enabled() and any(part.requires_grad for part in (x, weight, gate_up, down))
    if runs_grouped(x, order.shape[0], gate_up, down, keep):
        return run_grouped(x, weight, order, ends, gate_up, down)
    return _experts(x, weight, order, ends, gate_up, down, keep)[0]
