"""A linear recurrence over packed rows, h_i = decay_i * h_{i-1} + value_i, without a loop over rows.

Rows are cut into chunks of 32. Inside a chunk the decays between all pairs come from a cumulative product and one
batched matrix product applies them; the states at the chunks' ends follow the same recurrence and are found by the same
function. A cumulative product, never exp of summed logs: the decay is exactly 0 at a document's first row, which is
what resets the state there, and its log would be -inf.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 32


def _scan(decay: Float[Tensor, " m"], value: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    num_rows, width = value.shape
    size = min(CHUNK, num_rows)
    num_chunks = -(-num_rows // size)
    padding = num_chunks * size - num_rows
    if padding:
        decay = torch.cat([decay, decay.new_zeros(padding)])
        value = torch.cat([value, value.new_zeros(padding, width)])
    decay, value = decay.view(num_chunks, size), value.view(num_chunks, size, width)
    row = torch.arange(size, device=decay.device)
    is_later = row[:, None] > row
    # between[i, j]: the product of the decays of rows j + 1 to i, for j <= i.
    between = torch.where(is_later, decay[:, :, None], 1.0).cumprod(1).tril()
    local = torch.bmm(between, value)
    if num_chunks > 1:
        since_start = decay.cumprod(1)
        ends = _scan(since_start[:, -1], local[:, -1])
        local[1:] += since_start[1:, :, None] * ends[:-1, None]
    return local.view(-1, width)[:num_rows]


class _LinearScan(torch.autograd.Function):
    """Backward of a linear recurrence is the same recurrence from the other end."""

    @staticmethod
    def forward(ctx, decay: Tensor, value: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        with torch.autocast(value.device.type, enabled=False):
            state = _scan(decay, value)
        ctx.save_for_backward(decay, state)
        return state

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        decay, state = ctx.saved_tensors
        next_decay = torch.cat([decay[1:], decay.new_zeros(1)])
        with torch.autocast(grad.device.type, enabled=False):
            value_grad = _scan(next_decay.flip(0), grad.flip(0)).flip(0)
        decay_grad = torch.cat([decay.new_zeros(1), (value_grad[1:] * state[:-1]).sum(-1)])
        return decay_grad, value_grad


def linear_scan(decay: Float[Tensor, " m"], value: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """h_i = decay_i * h_{i-1} + value_i, starting from zero."""
    return _LinearScan.apply(decay, value)
