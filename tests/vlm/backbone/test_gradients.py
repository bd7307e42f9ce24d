"""Gradients against finite differences, in float64: the parts with backward passes of their own, and the whole."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from tests.vlm.backbone.kinds import backbone_of, some_boundaries, train_with, vectors
from vlm.backbone import ChunkConfig, Documents, ExpertsConfig, concept_moe
from vlm.backbone.attention import attend
from vlm.backbone.chunk import Chunker, find_boundaries, smooth
from vlm.backbone.experts import SparseFeedForward
from vlm.backbone.layers import RMSNorm, Rotary, rotate, swiglu
from vlm.backbone.scan import linear_scan


def some(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def check(function: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor) -> None:
    # Steps of 1e-6 on values of about 1 leave errors of about 1e-9.
    assert gradcheck(function, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


class Chunking(nn.Module):
    """A chunker's probabilities and concepts as one function of its weights and of the vectors."""

    def __init__(self, merge: str) -> None:
        super().__init__()
        self.chunker = Chunker(4, ChunkConfig(compression=2.0, merge="last" if merge == "last" else "sum"))
        self.documents = Documents.from_lengths([4, 1, 3])
        self.closes = torch.tensor([True, False, True, False, True, True, True, False])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        boundary, _, _ = find_boundaries(self.closes, self.documents, torch.zeros(2, 2, dtype=torch.long))
        prob = self.chunker.prob(x, self.chunker.keys(x), self.documents)
        concepts, rests = self.chunker.merge(x, self.closes, boundary, self.documents)
        return (prob, concepts) if rests is None else (prob, concepts, rests)


@pytest.mark.parametrize("merge", ["sum", "last"])
def test_gradients_of_probabilities_and_of_merged_concepts(merge: str) -> None:
    chunking = Chunking(merge)

    def run(x: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        weights = {"chunker.q_proj.weight": query, "chunker.k_proj.weight": key}
        out: tuple[Tensor, ...] = functional_call(chunking, weights, (x,))
        return out

    check(run, some(8, 4), some(4, 4, seed=1), some(4, 4, seed=2))


@pytest.mark.parametrize("num_rows", [1, 5, 33, 70])
def test_gradients_of_smoothing_and_of_the_scan(num_rows: int) -> None:
    """Within a chunk of the scan, one row beyond it, and over three."""
    prob = torch.linspace(0, 1, num_rows, dtype=torch.float64).index_fill(0, torch.tensor([0]), 1.0).requires_grad_()
    check(smooth, some(num_rows, 2), prob)
    check(linear_scan, some(num_rows), some(num_rows, 2, seed=1))


def test_gradients_of_smoothing_that_goes_on_from_a_state() -> None:
    starts = torch.tensor([0, 3])
    prob = torch.rand(5, dtype=torch.float64).requires_grad_()
    check(lambda concepts, prob, before: smooth(concepts, prob, before, starts), some(5, 2), prob, some(2, 2, seed=1))


@pytest.mark.parametrize(
    ("top_k", "shared_hidden", "normalize"), [(1, 0, True), (1, 2, False), (3, 2, True), (3, 0, False)]
)
def test_gradients_of_experts_by_token_and_by_weight(top_k: int, shared_hidden: int, normalize: bool) -> None:
    """Choices do not flip within a step: the smallest gap between random scores is far above it."""
    config = ExpertsConfig(num_experts=4, top_k=top_k, hidden=2, shared_hidden=shared_hidden, normalize_top_k=normalize)
    layer = SparseFeedForward(3, config).double()
    names = [name for name, _ in layer.named_parameters()]
    weights = [some(*parameter.shape, seed=seed) for seed, parameter in enumerate(layer.parameters())]

    def run(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        out, routing = functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return out, routing.prob, routing.z

    check(run, some(5, 3, seed=9), *weights)


@pytest.mark.parametrize("lengths", [[3, 20, 1], [4, 4], [5]], ids=["spread", "side by side", "one"])
@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_gradients_of_attention(lengths: list[int], num_kv_heads: int) -> None:
    n, documents = sum(lengths), Documents.from_lengths(lengths)
    heads = some(n, 2, 2), some(n, num_kv_heads, 2, seed=1), some(n, num_kv_heads, 2, seed=2)
    check(lambda q, k, v: attend(q, k, v, documents), *heads)


@pytest.mark.parametrize("shape", [(5, 6), (3, 2, 6)])
def test_gradients_of_the_norm(shape: tuple[int, ...]) -> None:
    norm = RMSNorm(6, 1e-6)
    check(lambda x, weight: functional_call(norm, {"weight": weight}, (x,)), some(*shape), some(6, seed=1))


def test_gradients_of_the_rotation_and_of_swiglu() -> None:
    angles = Rotary(6, 100.0)(torch.randint(0, 50, (4, 3)), torch.float64)
    check(lambda x: rotate(x, *angles), some(4, 2, 6))
    check(swiglu, some(5, 8))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["wide delta looped", "two targets"])
def test_gradients_of_the_whole_backbone_by_vector_and_by_weight(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of values and losses at given boundaries; without the straight-through factor, which is no derivative of its value."""
    monkeypatch.setattr(concept_moe, "confidence", lambda prob, closes: torch.ones_like(prob))
    backbone, lengths = backbone_of(kind), [5, 1, 4]
    closes, is_image = some_boundaries(lengths), torch.arange(10) % 3 == 1
    positions = Documents.from_lengths(lengths).offset_in_document

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        out = train_with(backbone, x, lengths, closes, positions, is_image)
        return out.hidden, *(loss for loss in out.losses.values() if loss.requires_grad)

    # Fast: along random directions, not entry by entry. Values of up to hundreds make the step's error larger.
    inputs = (vectors(10).requires_grad_(), *backbone.parameters())
    assert gradcheck(run, inputs, eps=1e-6, atol=1e-4, rtol=1e-4, fast_mode=True)
