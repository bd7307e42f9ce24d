from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlm.backbone import Documents
from vlm.backbone import attend as attending
from vlm.backbone.attend import attend
from vlm.backbone.attention import Attention
from vlm.backbone.layers import Rotary, rotate


def attend_by_loop(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    """One query at a time over the keys of its own document up to itself."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    out = []
    for start, length in zip(documents.starts.tolist(), documents.lengths, strict=True):
        for i in range(start, start + length):
            scores = torch.einsum("hk,nhk->hn", q[i], k[start : i + 1]) / q.shape[-1] ** 0.5
            out.append(torch.einsum("hn,nhk->hk", scores.softmax(-1), v[start : i + 1]))
    return torch.stack(out)


def random_heads(num_tokens: int, num_heads: int = 4, num_kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    def some(heads: int) -> Tensor:
        return torch.randn(num_tokens, heads, 8, dtype=torch.float64, requires_grad=True)

    return some(num_heads), some(num_kv_heads), some(num_kv_heads)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=5))
def test_attention_in_blocks_equals_a_loop_over_queries(lengths: list[int]) -> None:
    documents = Documents.from_lengths(lengths)
    q, k, v = random_heads(documents.num_tokens)
    torch.testing.assert_close(attend(q, k, v, documents), attend_by_loop(q, k, v, documents))


def test_gradients_of_attention_in_blocks_equal_those_of_the_loop() -> None:
    documents = Documents.from_lengths([3, 30, 1, 12])
    heads = random_heads(documents.num_tokens)
    out_grad = torch.randn(documents.num_tokens, 4, 8, dtype=torch.float64)
    fast = torch.autograd.grad(attend(*heads, documents), heads, out_grad)
    slow = torch.autograd.grad(attend_by_loop(*heads, documents), heads, out_grad)
    torch.testing.assert_close(fast, slow)


def test_attention_without_the_fused_kernel_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in float32 on a GPU: backward computes the maps again."""
    documents = Documents.from_lengths([3, 30, 1, 12])
    heads = random_heads(documents.num_tokens)
    out_grad = torch.randn(documents.num_tokens, 4, 8, dtype=torch.float64)
    fused = torch.autograd.grad(attend(*heads, documents), heads, out_grad)
    monkeypatch.setattr(attending, "has_flash", lambda device, dtype: False)
    monkeypatch.setattr(attending, "STRIP", 8)
    torch.testing.assert_close(torch.autograd.grad(attend(*heads, documents), heads, out_grad), fused)


@pytest.mark.parametrize("fewer", [True, False], ids=["takes fewer key heads", "wants as many"])
def test_the_kernel_of_variable_lengths_gets_the_documents(monkeypatch: pytest.MonkeyPatch, fewer: bool) -> None:
    """A CPU has no such kernel: the loop stands in for it."""
    documents = Documents.from_lengths([3, 30, 1])
    heads = random_heads(documents.num_tokens)

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, ends: Tensor, key_ends: Tensor, longest: int, *_: int, **how: Any
    ) -> Tensor:
        assert how == {"window_size": (-1, 0), **({"enable_gqa": True} if fewer else {})}
        assert (ends.dtype, longest) == (torch.int32, 30)
        assert fewer or q.shape == k.shape
        return attend_by_loop(q, k, v, Documents.from_lengths(torch.diff(ends).tolist()))

    monkeypatch.setattr(attending, "VARLEN", (kernel, {"window_size": (-1, 0)}, fewer))
    layout = attending.Ragged(documents.boundaries, torch.empty(()).expand(documents.longest))
    torch.testing.assert_close(attend(*heads, layout), attend_by_loop(*heads, documents))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own check reads it
@pytest.mark.parametrize("lengths", [[4, 9], [5, 5]])
def test_the_operation_holds_to_the_rules_of_torch_library(lengths: list[int]) -> None:
    documents = Documents.from_lengths(lengths)
    blocks = attending.lay_out(documents, torch.empty(()))
    assert isinstance(blocks, attending.Blocks)
    torch.library.opcheck(torch.ops.conceptvlm.attend.default, (*random_heads(documents.num_tokens), *blocks))


def test_equal_positions_on_three_axes_are_one_axis() -> None:
    rotary = Rotary(head_width=16, theta=10000.0)
    time = torch.arange(9)
    torch.testing.assert_close(rotary(time, torch.float32), rotary(time[:, None].expand(-1, 3), torch.float32))


def test_rows_and_columns_turn_pairs_of_their_own() -> None:
    rotary = Rotary(head_width=16, theta=10000.0)
    here, there = torch.tensor([[5, 2, 3]]), torch.tensor([[5, 4, 3]])
    differs = (rotary(here, torch.float64)[0] != rotary(there, torch.float64)[0]).flatten()
    assert differs.tolist() == [pair % 3 == 1 for pair in range(8)]


def test_scores_depend_on_the_distance_of_positions_alone() -> None:
    rotary = Rotary(head_width=16, theta=10000.0)
    q, k = torch.randn(2, 1, 1, 16, dtype=torch.float64)

    def score(query_position: int, key_position: int) -> Tensor:
        turned = [rotate(x, *rotary(torch.tensor([p]), x.dtype)) for x, p in ((q, query_position), (k, key_position))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100))


def test_joint_attention_adds_a_projection_of_the_concept_before_norm_and_rotation() -> None:
    attention = Attention(32, num_heads=4, num_kv_heads=2, head_width=8, norm_eps=1e-6, joint=True).double()
    documents = Documents.from_lengths([6, 3])
    x, concept = torch.randn(2, 9, 32, dtype=torch.float64)
    angles = Rotary(8, 10000.0)(documents.offset_in_document, x.dtype)
    normed = concept * (concept.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    weights = dict(attention.named_parameters())

    def project(name: str) -> Tensor:
        both = x @ weights[f"{name}_proj.weight"].T + normed @ weights[f"joint_{name}_proj.weight"].T
        return both.view(9, -1, 8)

    def turn(y: Tensor) -> Tensor:
        return rotate(y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt(), *angles)

    slow = attend_by_loop(turn(project("q")), turn(project("k")), project("v"), documents)
    expected = slow.flatten(1) @ weights["o_proj.weight"].T
    torch.testing.assert_close(attention(x, documents, angles, concept), expected)
