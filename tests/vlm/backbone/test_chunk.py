import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlm.backbone import ChunkConfig, Documents, ratio_loss
from vlm.backbone.chunk import Chunker, confidence, draw_boundaries, find_boundaries, sharpen, smooth
from vlm.backbone.ratio import ratio_losses

WIDTH = 12


def chunker_of(merge: str = "sum") -> Chunker:
    torch.manual_seed(0)
    return Chunker(WIDTH, ChunkConfig(compression=2.0, merge="last" if merge == "last" else "sum")).double()


def prob_by_loop(chunker: Chunker, x: Tensor, documents: Documents) -> Tensor:
    out = []
    for i, is_start in enumerate(documents.is_start.tolist()):
        q, k = chunker.q_proj.weight @ x[i], chunker.k_proj.weight @ x[i - 1]
        out.append(torch.ones((), dtype=x.dtype) if is_start else (1 - q @ k / (q.norm() * k.norm())) / 2)
    return torch.stack(out)


def concepts_by_loop(x: Tensor, closes: list[bool], documents: Documents, merge: str) -> Tensor:
    out = []
    for start, length in zip(documents.starts.tolist(), documents.lengths, strict=True):
        total = torch.zeros_like(x[0])
        for i in range(start, start + length):
            total = total + x[i]
            if closes[i]:
                out.append(total if merge == "sum" else x[i])
                total = torch.zeros_like(x[0])
    return torch.stack(out)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.sampled_from(["sum", "last"]), st.integers(0, 99))
def test_probabilities_and_concepts_equal_those_of_a_loop(lengths: list[int], merge: str, seed: int) -> None:
    documents, chunker = Documents.from_lengths(lengths), chunker_of(merge)
    torch.manual_seed(seed)
    x = torch.randn(documents.num_tokens, WIDTH, dtype=torch.float64)
    prob = chunker.prob(x, chunker.keys(x), documents)
    torch.testing.assert_close(prob, prob_by_loop(chunker, x, documents))
    closes = prob >= 0.5
    boundary, per_document, counts = find_boundaries(closes, documents, torch.tensor([[5, 3], [2, 1]]))
    assert counts == ((5, 3), (2, 1))
    concepts, _ = chunker.merge(x, closes, boundary, documents)
    torch.testing.assert_close(concepts, concepts_by_loop(x, closes.tolist(), documents, merge))
    assert boundary.tolist() == closes.nonzero().flatten().tolist()
    assert per_document == [int(part.sum()) for part in closes.split(lengths)]


def test_the_first_token_of_each_document_closes_a_concept_and_gives_no_gradient() -> None:
    documents, chunker = Documents.from_lengths([4, 1, 5]), chunker_of()
    x = torch.randn(10, WIDTH, dtype=torch.float64, requires_grad=True)
    prob = chunker.prob(x, chunker.keys(x), documents)
    assert (prob[documents.starts] == 1).all()
    (grad,) = torch.autograd.grad(prob[documents.starts].sum(), x)
    assert (grad == 0).all()


def test_probabilities_do_not_depend_on_the_size_of_the_vectors() -> None:
    documents, chunker = Documents.from_lengths([10]), chunker_of()
    x = torch.randn(10, WIDTH, dtype=torch.float64)
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(
            chunker.prob(factor * x, chunker.keys(factor * x), documents), chunker.prob(x, chunker.keys(x), documents)
        )


def test_the_router_computes_in_float32_under_autocast_and_for_bfloat16() -> None:
    documents, chunker = Documents.from_lengths([10]), chunker_of().float()
    x = torch.randn(10, WIDTH)
    expected = chunker.prob(x, chunker.keys(x), documents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(chunker.prob(x, chunker.keys(x), documents), expected)
    half = chunker.bfloat16()
    assert half.prob(x.bfloat16(), half.keys(x.bfloat16()), documents).dtype == torch.float32


def test_a_vector_of_zeros_lies_on_the_threshold_and_closes() -> None:
    documents, chunker = Documents.from_lengths([3]), chunker_of()
    x = torch.zeros(3, WIDTH, dtype=torch.float64)
    prob = chunker.prob(x, chunker.keys(x), documents)
    assert prob.tolist() == [1.0, 0.5, 0.5]
    assert draw_boundaries(prob).all()


def test_boundaries_are_drawn_at_the_sharpened_rate() -> None:
    for value in (0.1, 0.4, 0.5, 0.6, 0.9):
        prob = torch.full((20_000,), value)
        for tau in (1.0, 6.0):
            expected = value ** (1 / tau) if value >= 0.5 else 1 - (1 - value) ** (1 / tau)
            rate = draw_boundaries(prob, tau).float().mean().item()
            assert rate == pytest.approx(expected, abs=0.02)  # more than five standard errors


def test_tau_one_does_not_sharpen_and_a_large_tau_is_the_threshold() -> None:
    prob = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(sharpen(prob, 1.0), prob)
    assert torch.equal(draw_boundaries(prob, 1e9), prob >= 0.5)


def test_first_tokens_are_never_flipped_by_the_noise() -> None:
    for tau, sigma in ((1.0, None), (6.0, None), (None, 3.0)):
        assert draw_boundaries(torch.ones(1000), tau, sigma).all()


def test_gaussian_noise_moves_the_probability_before_the_threshold() -> None:
    closed = draw_boundaries(torch.full((20_000,), 0.4), sigma=0.1).float().mean().item()
    assert closed == pytest.approx(0.1587, abs=0.015)  # a normal number above one standard deviation


def test_a_seed_reproduces_the_drawn_boundaries() -> None:
    prob = torch.rand(500)
    torch.manual_seed(3)
    first = draw_boundaries(prob, 6.0)
    torch.manual_seed(3)
    assert torch.equal(first, draw_boundaries(prob, 6.0))


def test_the_straight_through_factor_is_exactly_one_and_passes_the_confidence_gradient() -> None:
    prob = torch.rand(200, requires_grad=True)
    closes = torch.rand(200) < 0.5
    factor = confidence(prob, closes)
    assert (factor == 1).all()
    (grad,) = torch.autograd.grad(factor.sum(), prob)
    assert torch.equal(grad, torch.where(closes, 1.0, -1.0))


@pytest.mark.parametrize("compression", [1.5, 16 / 9, 2.0, 4.0])
def test_the_ratio_loss_is_one_at_the_target_and_has_the_closed_form(compression: float) -> None:
    prob = torch.rand(288, dtype=torch.float64)
    at_target = torch.arange(288) < round(288 / compression)
    assert ratio_loss(prob, at_target, compression).item() == pytest.approx(1, abs=1e-12)
    closes = torch.rand(288) < 0.3
    share, mean = closes.double().mean(), prob.mean()
    excess = compression**2 / (compression - 1) * (share - 1 / compression) * (mean - 1 / compression)
    torch.testing.assert_close(ratio_loss(prob, closes, compression), 1 + excess)


def test_the_ratio_loss_pushes_probabilities_down_exactly_where_concepts_are_too_many() -> None:
    for num_closed in (10, 40, 60, 90):
        prob = torch.rand(100, requires_grad=True)
        (grad,) = torch.autograd.grad(ratio_loss(prob, torch.arange(100) < num_closed, 2.0), prob)
        assert (grad > 0).all() == (num_closed > 50)
        assert (grad < 0).all() == (num_closed < 50)


def test_each_modality_has_a_ratio_loss_of_its_own_where_it_has_a_target() -> None:
    config = ChunkConfig(compression=1.5, compression_image=4.0)
    prob, closes, is_image = torch.rand(50), torch.rand(50) < 0.5, torch.arange(50) < 20
    losses, counts = ratio_losses(config, prob, closes, is_image, over_ranks=False)
    torch.testing.assert_close(losses["ratio"], ratio_loss(prob[20:], closes[20:], 1.5))
    torch.testing.assert_close(losses["ratio_image"], ratio_loss(prob[:20], closes[:20], 4.0))
    hard = prob >= 0.5
    assert counts.tolist() == [[30, int(hard[20:].sum())], [20, int(hard[:20].sum())]]


def test_a_row_without_images_has_no_image_ratio_loss_but_keeps_its_graph() -> None:
    config = ChunkConfig(compression=1.5, compression_image=4.0)
    prob = torch.rand(50, requires_grad=True)
    losses, _ = ratio_losses(config, prob, prob > 0.5, None, over_ranks=False)
    assert losses["ratio_image"].item() == 0
    (grad,) = torch.autograd.grad(losses["ratio_image"], prob)
    assert (grad == 0).all()


def test_the_ratio_loss_can_count_what_the_threshold_closes() -> None:
    prob, drawn = torch.rand(50), torch.rand(50) < 0.5
    drawn_losses, _ = ratio_losses(ChunkConfig(compression=2.0), prob, drawn, None, over_ranks=False)
    config = ChunkConfig(compression=2.0, ratio_share="threshold")
    hard_losses, _ = ratio_losses(config, prob, drawn, None, over_ranks=False)
    torch.testing.assert_close(drawn_losses["ratio"], ratio_loss(prob, drawn, 2.0))
    torch.testing.assert_close(hard_losses["ratio"], ratio_loss(prob, prob >= 0.5, 2.0))


def test_smoothing_starts_each_document_at_its_own_first_concept() -> None:
    concepts, prob = torch.randn(6, 3), torch.tensor([1.0, 0.7, 0.6, 1.0, 0.9, 1.0])
    whole = smooth(concepts, prob)
    parts = [smooth(concepts[a:b], prob[a:b]) for a, b in ((0, 3), (3, 5), (5, 6))]
    torch.testing.assert_close(whole, torch.cat(parts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compression": 1.0}, "compression is tokens per concept and must be above 1, got 1.0"),
        ({"compression": 2.0, "compression_image": 0.5}, "compression_image is .* must be above 1, got 0.5"),
        ({"compression": float("nan")}, "must be above 1, got nan"),
        ({"compression": float("inf")}, "must be finite, got inf"),
    ],
)
def test_a_target_that_merges_nothing_or_everything_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChunkConfig(**settings)


def test_unknown_choices_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"tau must be at least 1 .* got 0.5"):
        ChunkConfig(compression=2.0, tau=0.5)
    with pytest.raises(ValueError, match=r"an alternative to tau; got sigma=0\.1, tau=6\.0"):
        ChunkConfig(compression=2.0, sigma=0.1)
