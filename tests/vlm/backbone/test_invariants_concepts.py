"""What concepts are made of and who sees them: invariants 4 to 8 of the design notes, for every kind with a chunker."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.vlm.backbone.kinds import (
    CHUNKED,
    backbone_of,
    every_probability,
    few_long_or_many_short,
    gradients,
    some_boundaries,
    stream_of,
    train_with,
    vectors,
)
from vlm.backbone import ChunkConfig, ConceptMoE, Documents
from vlm.backbone.chunk import Chunker, find_boundaries, smooth

pytestmark = pytest.mark.long

shares = st.sampled_from([0.0, 0.1, 0.5, 1.0])


def merged(merge: str, x: Tensor, lengths: list[int], closes: Tensor) -> tuple[Tensor, Tensor | None]:
    chunker = Chunker(x.shape[1], ChunkConfig(compression=2.0, merge="last" if merge == "last" else "sum"))
    documents = Documents.from_lengths(lengths)
    boundary, _, _ = find_boundaries(closes, documents, torch.zeros(2, 2, dtype=torch.long))
    return chunker.merge(x, closes, boundary, documents)


def merged_by_loop(merge: str, x: Tensor, lengths: list[int], closes: list[bool]) -> tuple[list[Tensor], list[Tensor]]:
    """Concepts, and what is left over at each document's end."""
    concepts, rests, n = [], [], 0
    for length in lengths:
        total = torch.zeros_like(x[0])
        for _ in range(length):
            total = total + x[n]
            if closes[n]:
                concepts.append(total if merge == "sum" else x[n])
                total = torch.zeros_like(x[0])
            n += 1
        rests.append(total)
    return concepts, rests


@settings(max_examples=10, deadline=None)
@given(lengths=few_long_or_many_short, share=shares, kind=st.sampled_from(list(CHUNKED)), seed=st.integers(0, 99))
def test_each_token_sees_one_concept_of_its_document_and_each_boundary_its_own(
    lengths: list[int], share: float, kind: str, seed: int
) -> None:
    """[4]"""
    documents, closes = Documents.from_lengths(lengths), some_boundaries(lengths, share, seed)
    with torch.no_grad():
        chunks = train_with(backbone_of(kind), vectors(sum(lengths), seed), lengths, closes).chunks
    assert chunks is not None
    assert chunks.documents is not None
    assert torch.equal(chunks.boundary, closes.nonzero().flatten())
    assert chunks.documents.lengths == tuple(int(part.sum()) for part in closes.split(lengths))
    assert torch.equal(chunks.concept_of_token[chunks.boundary], torch.arange(len(chunks.boundary)))
    assert set(torch.diff(chunks.concept_of_token).tolist()) <= {0, 1}
    assert torch.equal(chunks.documents.document_of_token[chunks.concept_of_token], documents.document_of_token)


@pytest.mark.parametrize("merge", ["sum", "last"])
@settings(max_examples=8, deadline=None)
@given(lengths=few_long_or_many_short, share=shares, seed=st.integers(0, 99))
def test_concepts_are_those_of_a_loop_over_tokens(merge: str, lengths: list[int], share: float, seed: int) -> None:
    """[5]"""
    x, closes = vectors(sum(lengths), seed), some_boundaries(lengths, share, seed)
    concepts, rests = merged(merge, x, lengths, closes)
    slow, slow_rests = merged_by_loop(merge, x, lengths, closes.tolist())
    torch.testing.assert_close(concepts, torch.stack(slow), atol=1e-12, rtol=0)
    if rests is not None:
        torch.testing.assert_close(rests, torch.stack(slow_rests), atol=1e-12, rtol=0)


@settings(max_examples=8, deadline=None)
@given(lengths=few_long_or_many_short, share=shares, seed=st.integers(0, 99))
def test_sums_up_to_the_last_boundary_are_all_that_concepts_hold(lengths: list[int], share: float, seed: int) -> None:
    """[5] Tokens after it are in no concept, and get no gradient through one."""
    x, closes = vectors(sum(lengths), seed).requires_grad_(), some_boundaries(lengths, share, seed)
    concepts, _ = merged("sum", x, lengths, closes)
    in_a_concept = torch.cat([part.flip(0).cumsum(0).flip(0) > 0 for part in closes.split(lengths)])
    torch.testing.assert_close(concepts.sum(0), x[in_a_concept].sum(0), atol=1e-10, rtol=0)
    (grad,) = torch.autograd.grad(concepts.sum(), x)
    assert torch.equal(grad, in_a_concept.to(grad.dtype)[:, None].expand_as(grad))


def test_a_sum_of_bfloat16_tokens_is_rounded_when_its_concept_is_closed_and_not_before() -> None:
    """[5] Above 256, bfloat16 has no odd numbers."""
    closes = some_boundaries([1000], share=0.0)
    closes[500] = True
    concepts, rests = merged("sum", torch.ones(1000, 2, dtype=torch.bfloat16), [1000], closes)
    assert concepts[1].tolist() == [500.0, 500.0]
    assert rests is not None
    assert rests.tolist() == [[499.0, 499.0]]


@pytest.mark.parametrize("kind", CHUNKED)
def test_with_a_boundary_at_every_token_concepts_run_as_tokens_would(kind: str) -> None:
    """[6] Equal lengths, smoothing leaves them as they are, and each token gets what its own concept became."""
    backbone, x, documents = backbone_of(kind), vectors(11), Documents.from_lengths([7, 4])
    before, after, behind = [], [], []
    first_of = (backbone.decoder[0].register_forward_pre_hook, backbone.concept[0].register_forward_pre_hook)
    handles = [
        first_of[1](lambda _, inputs: before.append(inputs[0])),
        backbone.concept[-1].register_forward_hook(lambda _, inputs, out: after.append(out[0])),
        first_of[0](lambda _, inputs: behind.append(inputs[0])),
    ]
    with every_probability(1.0):
        chunks = backbone(x, documents).chunks
    for handle in handles:
        handle.remove()
    assert chunks is not None
    assert chunks.documents is not None
    assert chunks.documents.lengths == documents.lengths
    assert chunks.concept_of_token.tolist() == list(range(11))
    h = backbone.encoder[0](x, stream_of(backbone, documents))[0]
    start = h if backbone.project_in is None else backbone.project_in(h)
    torch.testing.assert_close(before[0], start, atol=1e-12, rtol=0)
    config = backbone.config.chunk
    assert config is not None
    added = after[-1] - start if config.residual == "delta" else after[-1]
    added = added if backbone.project_out is None else backbone.project_out(added)
    torch.testing.assert_close(behind[0], h + added, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", CHUNKED)
def test_with_a_boundary_at_every_token_the_cache_holds_as_many_concepts_as_tokens(kind: str) -> None:
    """[6]"""
    backbone, x, documents = backbone_of(kind), vectors(11), Documents.from_lengths([7, 4])
    cache = backbone.new_cache(2, 8)
    with every_probability(1.0):
        whole = backbone(x, documents).hidden
        torch.testing.assert_close(backbone.prefill(x, documents, cache).hidden, whole, atol=1e-12, rtol=0)
    assert cache.num_concepts == cache.num_tokens == (7, 4)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("loop", ["sum", "looped"])
@pytest.mark.parametrize("joint", ["zero", None])
@pytest.mark.parametrize("merge", ["sum", "last"])
def test_with_a_boundary_at_every_token_and_the_delta_residual_it_is_the_plain_moe(
    merge: str, joint: str | None, loop: str, training: bool
) -> None:
    """[6] [22] A converted MoE starts where it was: values, and gradients of all that the plain one has."""
    chunk = ChunkConfig(compression=2.0, residual="delta", merge=merge, joint=joint)  # type: ignore[arg-type]
    config = replace(CHUNKED[loop], chunk=chunk)
    plain = backbone_of(replace(config, chunk=None)).train(training)
    converted = ConceptMoE(config).double().train(training)
    missing, unexpected = converted.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("chunker.") or ".joint_" in name for name in missing)
    x, documents, out_grad = vectors(20), Documents.from_lengths([13, 7]), vectors(20, seed=2)
    with every_probability(1.0):
        hidden = converted(x, documents).hidden
    expected = plain(x, documents).hidden
    # (h + (c - h)) is rounded once more than c.
    torch.testing.assert_close(hidden, expected, atol=1e-12, rtol=0)
    hidden.backward(out_grad)
    expected.backward(out_grad)
    own = gradients(converted)
    theirs = gradients(plain)
    torch.testing.assert_close({name: own[name] for name in theirs}, theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", CHUNKED)
def test_with_one_concept_a_document_every_token_gets_the_first(kind: str) -> None:
    """[7] Finite, also the gradients."""
    backbone, x, documents = backbone_of(kind).eval(), vectors(11), Documents.from_lengths([7, 4])
    streams = []
    hooks = (
        backbone.encoder[-1].register_forward_hook(lambda _, inputs, out: streams.append(out[0])),
        backbone.decoder[0].register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0])),
    )
    with every_probability(0.0):
        out = backbone(x, documents)
    for hook in hooks:
        hook.remove()
    assert out.chunks is not None
    assert out.chunks.boundary.tolist() == [0, 7]
    added = (streams[1] - streams[0]).split([7, 4])
    for part in added:
        torch.testing.assert_close(part, part[:1].expand_as(part), atol=1e-12, rtol=0)
    assert (added[0][0] - added[1][0]).abs().max() > 1e-3
    (out.hidden.sum() + sum(out.losses.values())).backward()
    assert all(grad is None or grad.isfinite().all() for grad in gradients(backbone).values())
    assert out.hidden.isfinite().all()


def smooth_by_loop(concepts: Tensor, prob: Tensor) -> Tensor:
    """From a state of zeros: the first probability is 1, but a derivative may be asked for."""
    state, out = torch.zeros_like(concepts[0]), []
    for concept, p in zip(concepts, prob, strict=True):
        state = p * concept + (1 - p) * state
        out.append(state)
    return torch.stack(out)


def probabilities(extreme: str, num_concepts: int) -> Tensor:
    values = {"ones": 1.0, "halves": 0.5, "tiny": 1e-6, "zeros": 0.0}
    generator = torch.Generator().manual_seed(num_concepts)
    drawn = torch.rand(num_concepts, dtype=torch.float64, generator=generator)
    prob = drawn if extreme == "any" else torch.full_like(drawn, values[extreme])
    return prob.masked_fill(drawn > 0.99, 1.0).index_fill(0, torch.tensor([0]), 1.0)  # documents start at some


@pytest.mark.parametrize("num_concepts", [1, 2, 33, 1025, 5000])
@pytest.mark.parametrize("extreme", ["any", "ones", "halves", "tiny", "zeros"])
def test_smoothing_and_its_gradients_are_those_of_the_recurrence_in_each_precision(
    extreme: str, num_concepts: int
) -> None:
    """[8] float64 to 1e-10; float32 to 1e-5 of the sizes; bfloat16 concepts, scanned in float32, to 1e-2."""
    exact = torch.randn(num_concepts, 2, dtype=torch.float64), probabilities(extreme, num_concepts)
    out_grad = torch.randn(num_concepts, 2, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in exact]
    slow = smooth_by_loop(*inputs)
    slow_grads = torch.autograd.grad(slow, inputs, out_grad)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        state = torch.promote_types(dtype, torch.float32)
        own = exact[0].detach().to(dtype).requires_grad_(), exact[1].detach().to(state).requires_grad_()
        fast = smooth(*own)
        assert fast.dtype == state
        torch.testing.assert_close(fast.double(), slow, atol=4 * tolerance, rtol=tolerance)
        grads = torch.autograd.grad(fast, own, out_grad.to(state))
        for grad, slow_grad in zip(grads, slow_grads, strict=True):
            size = slow_grad.abs().max().item()  # up to hundreds: with tiny probabilities a state lives long
            torch.testing.assert_close(grad.double(), slow_grad, atol=10 * tolerance * size + 1e-12, rtol=tolerance)
