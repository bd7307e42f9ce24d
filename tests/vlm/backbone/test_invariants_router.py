"""What the router learns from, its losses, its noise and its ties: invariants 12, 13, 14, 16 and 20 of the design notes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.vlm.backbone.kinds import (
    CHUNKED,
    SUM,
    backbone_of,
    gradients,
    some_boundaries,
    stream_of,
    train_with,
    vectors,
)
from vlm.backbone import ChunkConfig, ConceptMoE, Documents, concept_moe
from vlm.backbone.chunk import Chunker, draw_boundaries, smooth
from vlm.backbone.ratio import ratio_losses

pytestmark = pytest.mark.long

every_kind = pytest.mark.parametrize("kind", CHUNKED)
Cut = dict[str, object]
NO_SMOOTHING_GRADIENT: Cut = {"smooth": lambda concepts, prob: smooth(concepts, prob.detach())}
NO_CONFIDENCE_GRADIENT: Cut = {"confidence": lambda prob, closes: torch.ones_like(prob)}


def router_gradients(
    backbone: ConceptMoE, loss: str, cut: Cut, lengths: list[int], training: bool = True
) -> list[Tensor]:
    """Of the router's two projections, from one source, with some of its paths cut."""
    x = vectors(sum(lengths))
    with pytest.MonkeyPatch.context() as patch:
        for name, function in cut.items():
            patch.setattr(concept_moe, name, function)
        if training:
            out = train_with(backbone, x, lengths, some_boundaries(lengths))
        else:
            out = backbone.eval()(x, Documents.from_lengths(lengths))
    total = (out.hidden * vectors(len(x), seed=2)).sum() if loss == "hidden" else out.losses["ratio"]
    assert backbone.chunker is not None
    weights = [backbone.chunker.q_proj.weight, backbone.chunker.k_proj.weight]
    return list(torch.autograd.grad(total, weights, materialize_grads=True))


@every_kind
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    ("loss", "cut"),
    [("hidden", NO_SMOOTHING_GRADIENT), ("hidden", NO_CONFIDENCE_GRADIENT), ("ratio", {})],
    ids=["confidence", "smoothing", "ratio"],
)
def test_the_router_learns_from_each_source_alone(kind: str, training: bool, loss: str, cut: Cut) -> None:
    """[12] The hidden vectors through confidence, the hidden vectors through smoothing, and the ratio loss."""
    # 31 tokens: with a share of exactly 1 / R the ratio loss has no gradient, whatever the probabilities.
    grads = router_gradients(backbone_of(kind), loss, cut, [31], training)
    assert all(grad.abs().max() > 1e-6 for grad in grads)


@every_kind
def test_nothing_but_smoothing_and_confidence_brings_the_hidden_vectors_gradient_to_the_router(kind: str) -> None:
    """[12] The boundaries themselves, drawn or not, give none."""
    cut = NO_SMOOTHING_GRADIENT | NO_CONFIDENCE_GRADIENT
    for training in (False, True):
        assert not any(grad.any() for grad in router_gradients(backbone_of(kind), "hidden", cut, [30], training))


@every_kind
@pytest.mark.parametrize("loss", ["hidden", "ratio"])
def test_first_tokens_teach_the_router_nothing(kind: str, loss: str) -> None:
    """[12] Documents of one token each: every probability is the forced one."""
    assert not any(grad.any() for grad in router_gradients(backbone_of(kind), loss, {}, [1] * 6))


@pytest.mark.parametrize("kind", ["sum", "delta"])
def test_the_straight_through_factor_changes_no_value_and_its_gradient_is_a_product_with_the_concept(kind: str) -> None:
    """[13] Without decoder and norm the hidden vectors are z, and the derivative is <grad z, c> for each token."""
    backbone = backbone_of(replace(CHUNKED[kind], decoder_layers=0))
    backbone.norm = torch.nn.Identity()  # type: ignore[assignment]
    x, closes, out_grad = vectors(20), some_boundaries([20]), vectors(20, seed=2)
    probs: list[Tensor] = []
    true_prob = Chunker.prob

    def kept_prob(*inputs: object) -> Tensor:
        probs.append(true_prob(*inputs).detach().requires_grad_())  # type: ignore[arg-type]
        return probs[-1]

    hidden = {}
    for name, cuts in (("with", NO_SMOOTHING_GRADIENT), ("without", NO_SMOOTHING_GRADIENT | NO_CONFIDENCE_GRADIENT)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Chunker, "prob", kept_prob)
            for cut, function in cuts.items():
                patch.setattr(concept_moe, cut, function)
            hidden[name] = train_with(backbone, x, [20], closes).hidden
    assert torch.equal(hidden["with"], hidden["without"])
    h = backbone.encoder[0](x, stream_of(backbone, Documents.from_lengths([20])))[0]
    added = hidden["with"] - h
    (grad,) = torch.autograd.grad(hidden["with"], probs[0], out_grad)
    torch.testing.assert_close(grad, (out_grad * added).sum(1) * torch.where(closes, 1.0, -1.0))


@pytest.mark.parametrize("target", [1.5, 16 / 9, 2.0, 4.0])
def test_a_router_that_learns_from_the_ratio_loss_alone_reaches_its_target(target: float) -> None:
    """[14] Within 5%, on vectors that it has not seen, from the first boundaries of a random router."""
    torch.manual_seed(0)
    config, documents = ChunkConfig(compression=target, ratio_share="threshold"), Documents.from_lengths([2000])
    chunker, drift = Chunker(8, config), torch.randn(8)
    optimizer = torch.optim.Adam(chunker.parameters(), lr=3e-3)

    def prob_of_new_vectors() -> Tensor:
        x = torch.randn(2000, 8) + drift
        return chunker.prob(x, chunker.keys(x), documents)

    for step in range(400):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 400)
        prob = prob_of_new_vectors()
        losses, _ = ratio_losses(config, prob, draw_boundaries(prob, config.tau), None, over_ranks=False)
        optimizer.zero_grad()
        losses["ratio"].backward()
        optimizer.step()
    with torch.no_grad():
        closed = sum(int((prob_of_new_vectors() >= 0.5).sum()) for _ in range(5))
    assert 10_000 / closed == pytest.approx(target, rel=0.05)


@pytest.mark.parametrize("kind", CHUNKED)
def test_recomputed_blocks_see_the_same_boundaries_and_give_the_same_gradients(kind: str) -> None:
    """[16] Also where a loop runs a block again, and whatever the noise."""
    backbone, x, documents = backbone_of(kind).train(), vectors(30), Documents.from_lengths([19, 11])
    found = []
    for recompute in (False, True):
        backbone.recompute_blocks = recompute
        backbone.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        out = backbone(x, documents)
        ((out.hidden * vectors(30, seed=4)).sum() + sum(out.losses.values())).backward()
        found.append((out.hidden, out.losses, gradients(backbone)))
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)


@every_kind
def test_a_seed_repeats_training_and_evaluation_draws_nothing(kind: str) -> None:
    """[16]"""
    backbone, x, documents = backbone_of(kind), vectors(80), Documents.from_lengths([80])
    state = torch.get_rng_state()
    with torch.no_grad():
        backbone(x, documents)
        assert torch.equal(torch.get_rng_state(), state)
        runs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            runs.append(backbone.train()(x, documents).chunks.closes)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_without_noise_training_closes_what_evaluation_closes() -> None:
    """[16]"""
    backbone = backbone_of(replace(SUM, chunk=ChunkConfig(compression=2.0, tau=None)))
    x, documents = vectors(100), Documents.from_lengths([60, 40])
    with torch.no_grad():
        trained, evaluated = backbone.train()(x, documents), backbone.eval()(x, documents)
    torch.testing.assert_close(trained.hidden, evaluated.hidden, atol=0, rtol=0)


@every_kind
def test_noise_moves_boundaries_and_never_the_first_of_a_document(kind: str) -> None:
    """[16]"""
    documents = Documents.from_lengths([3, 1, 1] * 30)
    backbone = backbone_of(kind).train()
    with torch.no_grad():
        chunks = backbone(vectors(150), documents).chunks
    assert chunks is not None
    assert chunks.closes[documents.starts].all()
    assert not torch.equal(chunks.closes, chunks.prob >= 0.5)


@pytest.mark.parametrize("kind", [kind for kind in CHUNKED if kind != "biased" and kind != "norm over heads"])
def test_vectors_of_zeros_tie_at_a_half_and_close_concepts_in_whole_rows_and_in_steps(kind: str) -> None:
    """[20] A tie is exact only where the vectors are, which biases would prevent."""
    backbone, x = backbone_of(kind), torch.zeros(5, 12, dtype=torch.float64)
    chunks = backbone(x, Documents.from_lengths([5])).chunks
    assert chunks is not None
    assert chunks.prob.tolist() == [1.0, 0.5, 0.5, 0.5, 0.5]
    cache = backbone.new_cache(1, 5)
    steps = [backbone.step(token[None], cache).chunks for token in x]
    assert [step.prob.item() for step in steps if step is not None] == chunks.prob.tolist()
    assert cache.num_concepts == (5,)


def test_the_routers_projections_may_have_any_size() -> None:
    """[20] [22] A cosine: weight decay shrinks them and changes no probability."""
    backbone, x, documents = backbone_of("sum"), vectors(30), Documents.from_lengths([18, 12])
    expected = backbone(x, documents).hidden
    assert backbone.chunker is not None
    with torch.no_grad():
        backbone.chunker.q_proj.weight *= 1e-3
        backbone.chunker.k_proj.weight *= 0.3
    torch.testing.assert_close(backbone(x, documents).hidden, expected, atol=1e-11, rtol=0)
