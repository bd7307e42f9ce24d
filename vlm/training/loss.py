"""Cross entropy over the answered tokens only.

In: hidden vectors (n d), shifted labels (n), the head's weight (v d). Out: the *sum* of the losses, a scalar.
Tokens without a label (prompts, image slots) are dropped before the head, which is the larger part of a VLM's logits. The rest goes through
the head in chunks, and the gradients are computed in the forward pass, so that no more than `chunk` rows of logits exist at any time.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100  # label of a token that carries no loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if ctx.needs_input_grad[1] else None
        cast_weight = weight.to(hidden.dtype)
        for start in range(0, hidden.shape[0], chunk):
            part, label = hidden[start : start + chunk], labels[start : start + chunk]
            log_prob = (part @ cast_weight.T).to(exact).log_softmax(-1)
            total -= log_prob.gather(1, label[:, None]).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            grad_logits = log_prob.exp_()
            grad_logits.scatter_add_(1, label[:, None], torch.full_like(label[:, None], -1, dtype=exact))
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + chunk] = grad_logits @ cast_weight
            if grad_weight is not None:
                grad_weight += grad_logits.T @ part
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grad_outputs
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * grad.to(grad_weight.dtype),
            None,
            None,
        )


def answered_cross_entropy(
    hidden: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    weight: Float[Tensor, "v d"],
    num_answered: int | None = None,
    chunk: int = 2048,
) -> Float[Tensor, ""]:
    """Sum of the cross entropies of the tokens that have a label, in nats.

    Args:
        hidden: last hidden vectors, one for each token.
        labels: the next token, or IGNORED.
        weight: the head; rows are vocabulary entries.
        num_answered: how many labels are not IGNORED; where None they are counted, for which the host waits.
        chunk: rows of logits held at once.
    """
    is_answered = labels != IGNORED
    size = int(is_answered.sum()) if num_answered is None else num_answered
    answered = torch.nonzero_static(is_answered, size=size).squeeze(1)
    chosen = hidden.index_select(0, answered)
    if torch.is_autocast_enabled(hidden.device.type):
        chosen = chosen.to(torch.get_autocast_dtype(hidden.device.type))
    elif chosen.dtype != weight.dtype:
        chosen = chosen.to(weight.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _ChunkedCrossEntropy.apply(chosen, weight, labels[answered], chunk)
    return loss
