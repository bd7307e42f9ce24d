"""Causal attention within the documents of a packed row, without a mask.

Measured on a CPU core, forward and backward, 4,096 tokens in 8 documents: 7 times as fast as attention with a dense mask.
Documents of about equal length are padded into one block and attended together; padding goes at a document's right end,
where a causal query never looks. Everything that depends on lengths is in tensors, and the work is one opaque operation
in each direction, so that torch.compile does not make a graph for every packing.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vlm.backbone.documents import Documents

STRIP = 512  # queries at a time, where no fused kernel goes backward


class Blocks(NamedTuple):
    """Documents as padded blocks, for a causal kernel that knows no documents."""

    plan: Int[
        Tensor, " _"
    ]  # on the CPU: 1 where the packed row is the blocks already, then (documents, length) of each
    place: Int[Tensor, " n"]  # where each packed row goes in the blocks, laid end to end


class Ragged(NamedTuple):
    """Documents as they are, for a kernel of variable lengths."""

    boundaries: Int[Tensor, " s_plus_1"]  # int32
    span: Float[Tensor, " longest"]  # of no content: its length is a size that torch.compile can leave open


Layout = Blocks | Ragged


@cache
def _find_varlen() -> tuple[Callable[..., Any], dict[str, Any], bool] | None:
    """torch's kernel of variable lengths, how it is told to be causal, and whether it takes fewer key heads.

    Its parameters differ between versions; None where it is missing.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if "window_size" in known:
        causal: dict[str, Any] = {"window_size": (-1, 0)}
    elif "is_causal" in known:
        causal = {"is_causal": True}
    else:
        return None
    return varlen_attn, causal, "enable_gqa" in known


VARLEN = _find_varlen()


def lay_out(documents: Documents, like: Tensor) -> Layout:
    """What `attend` needs of documents, for queries made of vectors `like` these."""
    device = like.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    if device == "cuda" and dtype in (torch.float16, torch.bfloat16) and VARLEN is not None:
        # At least 2: torch.compile makes a graph of its own for a size of 1.
        span = torch.empty((), device=like.device).expand(max(2, documents.longest))
        return Ragged(documents.boundaries, span)
    return Blocks(documents.buckets.plan, documents.buckets.place)


def attend(
    q: Float[Tensor, "n h k"], k: Float[Tensor, "n g k"], v: Float[Tensor, "n g k"], documents: Documents | Layout
) -> Float[Tensor, "n h k"]:
    """Causal attention in which each document sees itself alone; g divides h."""
    layout = lay_out(documents, q) if isinstance(documents, Documents) else documents
    if isinstance(layout, Blocks):
        return _attend(q, k, v, layout.plan, layout.place)[0]
    assert VARLEN is not None
    varlen_attn, options, takes_fewer_keys = VARLEN
    if k.shape[1] != q.shape[1]:
        if takes_fewer_keys:
            options = {**options, "enable_gqa": True}
        else:
            repeats = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    ends, longest = layout.boundaries, layout.span.shape[0]
    return varlen_attn(q, k, v, ends, ends, longest, longest, **options)


def attend_with_denominator(
    q: Float[Tensor, "n h k"], k: Float[Tensor, "n g k"], v: Float[Tensor, "n g k"], documents: Documents
) -> tuple[Float[Tensor, "n h k"], Float[Tensor, "n h"]]:
    """As `attend`, with the log of each softmax's denominator; only where `has_flash` says so."""
    return _attend(q, k, v, documents.buckets.plan, documents.buckets.place)


@cache
def has_flash(device: str, dtype: torch.dtype) -> bool:
    """Whether torch's fused CPU kernel runs forward and backward, with fewer key heads than query heads."""
    if device != "cpu":
        return False
    try:
        q, k = torch.ones(1, 2, 3, 8, dtype=dtype), torch.ones(1, 1, 3, 8, dtype=dtype)
        out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k, 0.0, True)
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            out, q, k, k, out, logsumexp, 0.0, True
        )
    except (AttributeError, RuntimeError, ValueError, NotImplementedError):
        return False
    return [grad.shape for grad in grads] == [q.shape, k.shape, k.shape]


def _by_block(
    plan: Tensor, place: Tensor, parts: Sequence[Tensor], grad: Tensor | None = None
) -> tuple[list[list[Tensor]], bool]:
    """The parts' rows as blocks (documents, heads, padded length, width), and whether they had to be moved for it.

    A gradient comes first in each block. Padding is the packed row's first vector, which no query sees; a gradient has zeros there.
    """
    is_packed, *sizes = plan.tolist()
    shapes = list(zip(sizes[::2], sizes[1::2], strict=True))
    rows = [count * length for count, length in shapes]
    if not is_packed:
        source = place.new_zeros(sum(rows))
        source[place] = torch.arange(place.shape[0], device=place.device)
        parts = [part.index_select(0, source) for part in parts]
    if grad is not None:
        spread = grad if is_packed else grad.new_zeros(sum(rows), *grad.shape[1:]).index_copy_(0, place, grad)
        parts = [spread, *parts]
    split = [
        [block.unflatten(0, shape).transpose(1, 2) for block, shape in zip(part.split(rows), shapes, strict=True)]
        for part in parts
    ]
    return [list(blocks) for blocks in zip(*split, strict=True)], not is_packed


def _packed(blocks: Sequence[Tensor], place: Tensor, moved: bool) -> Tensor:
    """Rows of blocks as one packed row again: the inverse of `_by_block`."""
    rows = [block.transpose(1, 2).flatten(0, 1) for block in blocks]
    joined = rows[0] if len(rows) == 1 else torch.cat(rows)
    return joined.index_select(0, place) if moved else joined.contiguous()


@torch.library.custom_op("conceptvlm::attend", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, plan: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    blocks, moved = _by_block(plan, place, (q, k, v))
    if has_flash(q.device.type, q.dtype):
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        seen = [flash(query, key, value, 0.0, True) for query, key, value in blocks]
        logsumexp = _packed([one.unsqueeze(-1) for _, one in seen], place, moved).squeeze(-1)
        return _packed([out for out, _ in seen], place, moved), logsumexp
    outs = [_causal(query, key, value) for query, key, value in blocks]
    return _packed(outs, place, moved), q.new_empty(0)


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    fewer = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=fewer)


def _causal_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For where no fused kernel gives it: autograd does not reach into an operation of torch.library.

    The map of attention is computed again in strips of queries, so that it never exists as a whole.
    """
    exact, scale = torch.promote_types(query.dtype, torch.float32), query.shape[-1] ** -0.5
    repeats, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    query_grad, key_grad, value_grad = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
    token = torch.arange(length, device=query.device)
    for start in range(0, length, STRIP):
        end = min(start + STRIP, length)
        queries, grads, seen = query[:, :, start:end], grad[:, :, start:end], key[:, :, :end]
        scores = (queries @ seen.mT).to(exact) * scale
        prob = scores.masked_fill(token[:end] > token[start:end, None], -torch.inf).softmax(-1)
        prob_grad = (grads @ value[:, :, :end].mT).to(exact)
        scores_grad = prob * (prob_grad - (prob * prob_grad).sum(-1, keepdim=True)) * scale
        query_grad[:, :, start:end] = scores_grad.to(query.dtype) @ seen
        key_grad[:, :, :end] += scores_grad.to(query.dtype).mT @ queries
        value_grad[:, :, :end] += prob.to(query.dtype).mT @ grads
    key_grad, value_grad = (part.unflatten(1, (-1, repeats)).sum(2) for part in (key_grad, value_grad))
    return query_grad, key_grad, value_grad


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, plan: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    exact = torch.promote_types(q.dtype, torch.float32)
    size = q.shape[:2] if has_flash(q.device.type, q.dtype) else (0,)
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(size, dtype=exact)


@torch.library.custom_op("conceptvlm::attend_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, plan: Tensor, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if has_flash(q.device.type, q.dtype):
        parts, moved = _by_block(plan, place, (q, k, v, out, logsumexp.unsqueeze(-1)), grad)
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grads = [backward(*five, one.squeeze(-1), 0.0, True) for *five, one in parts]
    else:
        parts, moved = _by_block(plan, place, (q, k, v), grad)
        grads = [_causal_backward(*four) for four in parts]
    q_grad, k_grad, v_grad = (_packed(blocks, place, moved) for blocks in zip(*grads, strict=True))
    return q_grad, k_grad, v_grad


@_attend_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, plan: Tensor, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    q_grad, k_grad, v_grad = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in (q, k, v))
    return q_grad, k_grad, v_grad


def _keep_for_backward(ctx, inputs: tuple, output: tuple) -> None:  # type: ignore[no-untyped-def]
    q, k, v, plan, place = inputs
    ctx.save_for_backward(q, k, v, *output, plan, place)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    if grad is None:
        return (None,) * 5
    return *_attend_backward(grad, *ctx.saved_tensors), None, None


_attend.register_autograd(_backward, setup_context=_keep_for_backward)


def _map_flops(q: Tensor, plan: Tensor) -> int:
    """Of whole maps, as torch counts attention; not halved for causality."""
    _, *sizes = plan.tolist()
    return sum(
        4 * q.shape[1] * q.shape[2] * count * length**2 for count, length in zip(*[iter(sizes)] * 2, strict=True)
    )


@register_flop_formula(torch.ops.conceptvlm.attend, get_raw=True)
def _forward_flops(q, k, v, plan, place, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return _map_flops(q, plan)


@register_flop_formula(torch.ops.conceptvlm.attend_backward, get_raw=True)
def _backward_flops(grad, q, k, v, out, logsumexp, plan, place, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return _map_flops(q, plan) * 5 // 2
