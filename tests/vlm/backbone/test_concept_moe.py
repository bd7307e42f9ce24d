"""Numbers in brackets are those of the invariants in the design notes of the backbone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlm.backbone import BackboneConfig, ChunkConfig, ConceptMoE, Documents, ExpertsConfig

WIDTH = 16


def config_of(**changes: object) -> BackboneConfig:
    config = BackboneConfig(
        width=WIDTH,
        num_heads=4,
        num_kv_heads=2,
        head_width=8,
        encoder_layers=1,
        concept_layers=2,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=4, top_k=2, hidden=16),
        chunk=ChunkConfig(compression=2.0),
        init_std=0.3,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def backbone_of(**changes: object) -> ConceptMoE:
    torch.manual_seed(0)
    return ConceptMoE(config_of(**changes)).double().eval()


def vectors(num_tokens: int, seed: int = 1) -> Tensor:
    return torch.randn(num_tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run_seeded(backbone: ConceptMoE, x: Tensor, documents: Documents) -> Tensor:
    torch.manual_seed(5)
    return backbone(x, documents).hidden


@pytest.mark.parametrize("merge", ["sum", "last"])
@pytest.mark.parametrize("training", [False, True])
def test_future_tokens_do_not_change_the_past_but_change_themselves(merge: str, training: bool) -> None:
    """[1]"""
    backbone = backbone_of(chunk=ChunkConfig(compression=2.0, merge="last" if merge == "last" else "sum"))
    backbone.train(training)
    x, documents = vectors(24), Documents.from_lengths([24])
    before = run_seeded(backbone, x, documents)
    for cut in range(1, 24, 3):
        changed = x.clone()
        changed[cut:] = vectors(24 - cut, seed=7)
        after = run_seeded(backbone, changed, documents)
        torch.testing.assert_close(after[:cut], before[:cut], atol=1e-12, rtol=0)
        assert ((after[cut:] - before[cut:]).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("merge", ["sum", "last"])
def test_every_prefix_gives_what_the_whole_gives(merge: str) -> None:
    """[2]"""
    backbone = backbone_of(chunk=ChunkConfig(compression=2.0, merge="last" if merge == "last" else "sum"))
    x = vectors(20)
    whole = backbone(x, Documents.from_lengths([20])).hidden
    for length in range(1, 20):
        part = backbone(x[:length], Documents.from_lengths([length])).hidden
        torch.testing.assert_close(part, whole[:length], atol=1e-12, rtol=0)


def test_no_gradient_flows_from_a_token_to_a_later_one() -> None:
    """[3]"""
    backbone = backbone_of()
    x = vectors(10).requires_grad_()
    hidden = backbone(x, Documents.from_lengths([10])).hidden
    for token in range(10):
        (grad,) = torch.autograd.grad(hidden[token].sum(), x, retain_graph=True)
        assert (grad[token + 1 :] == 0).all()
        assert grad[: token + 1].abs().sum() > 0


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_each_token_sees_one_concept_and_each_boundary_its_own(lengths: list[int]) -> None:
    """[4]"""
    documents = Documents.from_lengths(lengths)
    chunks = backbone_of()(vectors(documents.num_tokens), documents).chunks
    assert chunks is not None
    assert chunks.documents is not None
    assert chunks.closes[documents.starts].all()
    assert chunks.documents.num_tokens == len(chunks.boundary) == int(chunks.closes.sum())
    assert torch.equal(chunks.concept_of_token[chunks.boundary], torch.arange(len(chunks.boundary)))
    assert (torch.diff(chunks.concept_of_token) >= 0).all()
    assert torch.equal(chunks.documents.document_of_token[chunks.concept_of_token], documents.document_of_token)


def set_router(backbone: ConceptMoE, sign: float) -> None:
    """Make every token like the one before it (sign 1), or its opposite (sign -1), in the router's eyes."""
    assert backbone.chunker is not None
    with torch.no_grad():
        one_row = torch.zeros_like(backbone.chunker.q_proj.weight)
        one_row[0] = 1.0
        backbone.chunker.q_proj.weight.copy_(one_row)
        backbone.chunker.k_proj.weight.copy_(sign * one_row)


def positive_vectors(num_tokens: int) -> Tensor:
    """Vectors whose entries' sum stays positive through the encoder layer."""
    return vectors(num_tokens) + 100.0


def test_with_a_boundary_at_every_token_the_concepts_are_the_tokens() -> None:
    """[6]"""
    backbone = backbone_of()
    set_router(backbone, -1.0)
    documents = Documents.from_lengths([7, 4])
    chunks = backbone(positive_vectors(11), documents).chunks
    assert chunks is not None
    assert chunks.documents is not None
    torch.testing.assert_close(chunks.prob, torch.ones(11, dtype=torch.float64))
    assert chunks.documents.lengths == documents.lengths
    assert chunks.concept_of_token.tolist() == list(range(11))


def test_with_one_concept_a_document_every_token_sees_the_first() -> None:
    """[7]"""
    backbone = backbone_of()
    set_router(backbone, 1.0)
    out = backbone(positive_vectors(11), Documents.from_lengths([7, 4]))
    assert out.chunks is not None
    assert out.chunks.closes.nonzero().flatten().tolist() == [0, 7]
    assert out.chunks.concept_of_token.tolist() == [0] * 7 + [1] * 4
    assert out.hidden.isfinite().all()
    assert all(loss.isfinite() for loss in out.losses.values())


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.booleans())
def test_packed_documents_are_what_each_is_alone(lengths: list[int], with_chunker: bool) -> None:
    """[9]"""
    backbone = backbone_of(**({} if with_chunker else {"chunk": None}))
    documents = Documents.from_lengths(lengths)
    x = vectors(documents.num_tokens)
    packed = backbone(x, documents)
    for part, out in zip(x.split(lengths), packed.hidden.split(lengths), strict=True):
        torch.testing.assert_close(backbone(part, Documents.from_lengths([len(part)])).hidden, out, atol=1e-12, rtol=0)


def test_gradients_of_packed_documents_are_the_sums_of_the_separate_ones() -> None:
    """[9]"""
    backbone, lengths = backbone_of(), [9, 1, 14]
    x, out_grad = vectors(24), vectors(24, seed=3)
    backbone(x, Documents.from_lengths(lengths)).hidden.backward(out_grad)
    packed = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    backbone.zero_grad(set_to_none=True)
    for part, grad in zip(x.split(lengths), out_grad.split(lengths), strict=True):
        backbone(part, Documents.from_lengths([len(part)])).hidden.backward(grad)
    torch.testing.assert_close({name: p.grad for name, p in backbone.named_parameters()}, packed, atol=1e-9, rtol=1e-9)


def test_shuffling_the_documents_shuffles_the_result() -> None:
    """[9]"""
    backbone, parts = backbone_of(), [vectors(n, seed=n) for n in (6, 3, 11)]
    forth = backbone(torch.cat(parts), Documents.from_lengths([6, 3, 11])).hidden.split([6, 3, 11])
    back = backbone(torch.cat(parts[::-1]), Documents.from_lengths([11, 3, 6])).hidden.split([11, 3, 6])
    torch.testing.assert_close(forth, back[::-1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("source", ["hidden", "ratio"])
def test_the_router_learns_from_the_hidden_vectors_and_from_the_ratio_loss(source: str) -> None:
    """[12]"""
    backbone = backbone_of().train()
    out = backbone(vectors(30), Documents.from_lengths([30]))
    loss = (out.hidden * vectors(30, seed=2)).sum() if source == "hidden" else out.losses["ratio"]
    loss.backward()
    assert backbone.chunker is not None
    for projection in (backbone.chunker.q_proj, backbone.chunker.k_proj):
        assert projection.weight.grad is not None
        assert projection.weight.grad.abs().sum() > 0


def test_evaluation_is_deterministic_and_training_draws() -> None:
    """[16]"""
    backbone, x, documents = backbone_of(), vectors(200), Documents.from_lengths([200])
    assert torch.equal(backbone(x, documents).hidden, backbone(x, documents).hidden)
    backbone.train()
    first, second = (backbone(x, documents).chunks for _ in range(2))
    assert first is not None
    assert second is not None
    assert not torch.equal(first.closes, second.closes)


def test_recomputed_blocks_see_the_same_boundaries_and_give_the_same_gradients() -> None:
    """[16]"""
    backbone, x, documents = backbone_of().train(), vectors(60), Documents.from_lengths([35, 25])
    grads = []
    for recompute in (False, True):
        backbone.recompute_blocks = recompute
        backbone.zero_grad(set_to_none=True)
        run_seeded(backbone, x, documents).backward(vectors(60, seed=4))
        grads.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
    torch.testing.assert_close(grads[0], grads[1])


def test_zero_joint_projections_change_nothing_but_learn() -> None:
    """[17]"""
    backbone, x, documents = backbone_of(), vectors(20), Documents.from_lengths([20])
    joint = {name: parameter for name, parameter in backbone.named_parameters() if "joint_" in name and "proj" in name}
    assert len(joint) == 3
    for parameter in joint.values():
        torch.nn.init.zeros_(parameter)
    alone = ConceptMoE(config_of(chunk=ChunkConfig(compression=2.0, joint=None))).double().eval()
    state = {name: value for name, value in backbone.state_dict().items() if "joint_" not in name}
    alone.load_state_dict(state)
    hidden = backbone(x, documents).hidden
    torch.testing.assert_close(hidden, alone(x, documents).hidden)
    hidden.backward(vectors(20, seed=2))
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in joint.values())


def test_without_a_chunker_it_is_a_plain_stack_of_blocks() -> None:
    backbone, x, documents = backbone_of(chunk=None), vectors(12), Documents.from_lengths([12])
    out = backbone(x, documents)
    assert out.chunks is None
    assert out.losses["ratio"].item() == 0
    assert [load.shape for load in out.expert_load] == [(4,)] * 4


def test_one_expert_makes_a_dense_model_with_no_routing_losses() -> None:
    backbone = backbone_of(experts=ExpertsConfig(num_experts=1, top_k=1, hidden=32))
    out = backbone(vectors(12), Documents.from_lengths([12]))
    assert out.expert_load == ()
    assert out.losses["balance"].item() == 0
    assert not any("experts" in name for name, _ in backbone.named_parameters())


def test_balance_is_one_for_even_experts_and_load_is_a_share_per_layer() -> None:
    backbone = backbone_of()
    out = backbone(vectors(50), Documents.from_lengths([50]))
    torch.testing.assert_close(torch.stack(out.expert_load).sum(1), torch.ones(4, dtype=torch.float64))
    for name, parameter in backbone.named_parameters():
        if name.endswith("gate.weight"):
            torch.nn.init.zeros_(parameter)
    even = backbone(vectors(50), Documents.from_lengths([50])).losses
    assert even["balance"].item() == pytest.approx(1)
    assert even["z"].item() == pytest.approx(torch.tensor(4.0).log().square().item())


def test_counted_positions_are_the_default_and_concepts_take_their_boundary_tokens_position() -> None:
    backbone, x, documents = backbone_of(), vectors(20), Documents.from_lengths([12, 8])
    counted = documents.offset_in_document
    expected = backbone(x, documents).hidden
    torch.testing.assert_close(backbone(x, documents, counted).hidden, expected)
    torch.testing.assert_close(backbone(x, documents, counted[:, None].expand(-1, 3)).hidden, expected)
    torch.testing.assert_close(backbone(x, documents, counted + 1000).hidden, expected, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(backbone(x, documents, 3 * counted).hidden, expected)


def test_tokens_and_concepts_are_counted_for_text_and_image() -> None:
    backbone, x, documents = backbone_of(), vectors(40), Documents.from_lengths([40])
    is_image = torch.arange(40) % 4 == 1
    chunks = backbone(x, documents, is_image=is_image).chunks
    assert chunks is not None
    closes = chunks.closes
    assert chunks.counts == ((30, int(closes[~is_image].sum())), (10, int(closes[is_image].sum())))


def test_saved_weights_give_the_same_result() -> None:
    """[22]"""
    backbone, other = backbone_of(), ConceptMoE(config_of()).double().eval()
    other.load_state_dict(backbone.state_dict())
    x, documents = vectors(15), Documents.from_lengths([15])
    assert torch.equal(backbone(x, documents).hidden, other(x, documents).hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_and_low_precision_give_finite_results_in_their_dtype(dtype: torch.dtype) -> None:
    backbone = backbone_of().to(dtype).train()
    x = vectors(40).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        out = backbone(x, Documents.from_lengths([40]))
    assert out.hidden.dtype == dtype
    assert out.chunks is not None
    assert out.chunks.prob.dtype == torch.float32
    out.hidden.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_documents_that_do_not_fill_the_row_are_refused() -> None:
    with pytest.raises(ValueError, match="the documents hold 9 tokens"):
        backbone_of()(vectors(10), Documents.from_lengths([9]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads, got 3 and 4"),
        ({"head_width": 7}, "head_width must be even.* got 7"),
        ({"encoder_layers": -1}, "layer counts must not be negative"),
        ({"concept_layers": 0}, "use chunk: null"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(**change)
