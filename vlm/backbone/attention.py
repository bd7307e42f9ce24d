"""Causal attention within the documents of a packed row, and within cached sequences.

`attend` never builds a dense mask. Measured on a CPU core: per-document causal attention is 8 times as fast as
attention with a mask over 8 documents of 512 tokens. Padding goes at a document's right end, where a causal query never
looks.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlm.backbone.cache import KeyValues, Seats
from vlm.backbone.documents import Documents
from vlm.backbone.layers import RMSNorm, rotate

QueryKeyNorm = Literal["head", "all"] | None
AttentionBias = Literal["qkv", "qkvo"] | None


class _Spread(torch.autograd.Function):
    """Packed rows to their places in a larger buffer, zeros elsewhere. Backward is a gather, not an index_add."""

    @staticmethod
    def forward(ctx, packed: Tensor, place: Tensor, num_places: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(place)
        return packed.new_zeros(num_places, *packed.shape[1:]).index_copy_(0, place, packed)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (place,) = ctx.saved_tensors
        return grad.index_select(0, place), None, None


class _Collect(torch.autograd.Function):
    """Packed rows from their places: the adjoint of `_Spread`."""

    @staticmethod
    def forward(ctx, spread: Tensor, place: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(place)
        ctx.num_places = spread.shape[0]
        return spread.index_select(0, place)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (place,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_places, *grad.shape[1:]).index_copy_(0, place, grad), None


@cache
def _find_varlen() -> tuple[Callable[..., Any], frozenset[str]] | None:
    """torch's variable-length kernel and the names of its parameters, which differ between versions."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def _attend_varlen(
    q: Float[Tensor, "n h k"], k: Float[Tensor, "n g k"], v: Float[Tensor, "n g k"], documents: Documents
) -> Float[Tensor, "n h k"] | None:
    found = _find_varlen()
    if found is None:
        return None
    varlen_attn, known = found
    options: dict[str, object] = {}
    if "window_size" in known:
        options["window_size"] = (-1, 0)
    elif "is_causal" in known:
        options["is_causal"] = True
    else:
        return None
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            repeats = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    ends, longest = documents.boundaries, documents.longest
    return varlen_attn(q, k, v, ends, ends, longest, longest, **options)


def attend(
    q: Float[Tensor, "n h k"], k: Float[Tensor, "n g k"], v: Float[Tensor, "n g k"], documents: Documents
) -> Float[Tensor, "n h k"]:
    """Causal attention in which each document sees itself alone; g divides h."""
    if q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16):
        attended = _attend_varlen(q, k, v, documents)
        if attended is not None:
            return attended
    buckets = documents.buckets
    if not buckets.is_packed:
        q, k, v = (_Spread.apply(x, buckets.place, buckets.num_places) for x in (q, k, v))
    # Split, not sliced block by block: the backward of each slice would fill and add a whole row of zeros.
    sizes = [count * width for count, width in buckets.shapes]
    out = []
    for shape, *blocks in zip(buckets.shapes, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        query, key, value = (block.unflatten(0, shape).transpose(1, 2) for block in blocks)
        seen = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=key.shape[1] != query.shape[1]
        )
        out.append(seen.transpose(1, 2).flatten(0, 1))
    joined = out[0] if len(out) == 1 else torch.cat(out)
    return joined if buckets.is_packed else _Collect.apply(joined, buckets.place)


def _attend_stored(
    q: Float[Tensor, "n h k"], k: Float[Tensor, "s c g k"], v: Float[Tensor, "s c g k"], seats: Seats
) -> Float[Tensor, "n h k"]:
    """New queries over all stored keys of their own sequence."""
    documents = seats.documents
    place = documents.document_of_token * documents.longest + documents.offset_in_document
    padded = q.new_zeros(documents.num_documents * documents.longest, *q.shape[1:]).index_copy_(0, place, q)
    query = padded.unflatten(0, (documents.num_documents, documents.longest)).transpose(1, 2)
    key, value = k.transpose(1, 2), v.transpose(1, 2)
    seen = F.scaled_dot_product_attention(
        query, key, value, attn_mask=seats.sees, enable_gqa=key.shape[1] != query.shape[1]
    )
    return seen.transpose(1, 2).flatten(0, 1).index_select(0, place)


class Attention(nn.Module):
    """Grouped-query attention, with normalised queries and keys as in Qwen3; optionally joint with a concept.

    Joint decoding (the paper's Eq. 11): queries, keys and values each get a second projection of the concept that the
    token sees. The paper gives no norm for that input; it is normalised here, as a sum of many tokens would drown the
    values.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_width: int,
        *,
        norm_eps: float,
        qk_norm: QueryKeyNorm = "head",
        bias: AttentionBias = None,
        joint: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = num_heads, num_kv_heads, head_width
        query, key = num_heads * head_width, num_kv_heads * head_width
        self.q_proj = nn.Linear(width, query, bias=bias is not None)
        self.k_proj = nn.Linear(width, key, bias=bias is not None)
        self.v_proj = nn.Linear(width, key, bias=bias is not None)
        self.o_proj = nn.Linear(query, width, bias=bias == "qkvo")
        self.qk_norm = qk_norm
        if qk_norm is not None:
            self.q_norm = RMSNorm(head_width if qk_norm == "head" else query, norm_eps)
            self.k_norm = RMSNorm(head_width if qk_norm == "head" else key, norm_eps)
        self.joint = joint
        if joint:
            self.joint_norm = RMSNorm(width, norm_eps)
            self.joint_q_proj = nn.Linear(width, query, bias=False)
            self.joint_k_proj = nn.Linear(width, key, bias=False)
            self.joint_v_proj = nn.Linear(width, key, bias=False)

    def forward(
        self,
        x: Float[Tensor, "n d"],
        documents: Documents,
        rotary: tuple[Float[Tensor, "n 1 pairs"], Float[Tensor, "n 1 pairs"]],
        concept: Float[Tensor, "n d"] | None = None,
        store: KeyValues | None = None,
        seats: Seats | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "n d"]:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.joint:
            assert concept is not None
            concept = self.joint_norm(concept)
            q = q + self.joint_q_proj(concept)
            k = k + self.joint_k_proj(concept)
            v = v + self.joint_v_proj(concept)
        if self.qk_norm == "all":
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.unflatten(-1, (self.num_heads, self.head_width))
        k = k.unflatten(-1, (self.num_kv_heads, self.head_width))
        v = v.unflatten(-1, (self.num_kv_heads, self.head_width))
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if store is None or seats is None:
            out = attend(q, k, v, documents)
        else:
            keys, values = store.store(layer, k, v, seats)
            out = attend(q, k, v, documents) if seats.sees is None else _attend_stored(q, keys, values, seats)
        return self.o_proj(out.flatten(1))
