"""Group tokens into concepts, and spread concepts back over tokens.

In: packed token vectors (n d). Out: packed concept vectors (m d), m <= n, and after the concept layers (n d) again.
Source: ConceptMoE (arXiv 2601.21420) sec. 3.2-3.4; the router follows H-Net (arXiv 2507.07955) sec. 2.2.

A boundary token ends its chunk: the concept is made of the tokens after the previous boundary up to and including its
own, and is seen from its own boundary token on. (The other reading, from a boundary to the next, would let tokens see
later ones.) Unlike in the paper's demo each document's first token closes a concept of its own, so documents never mix.
Everything here runs outside autocast, in at least float32.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlm.backbone.cache import ChunkState
from vlm.backbone.documents import Documents
from vlm.backbone.scan import linear_scan

THRESHOLD = 0.5
EPS = 1e-12  # least length that a vector is divided by
CHOICES: dict[str, tuple[str | None, ...]] = {
    "merge": ("sum", "last"),
    "ratio_share": ("drawn", "threshold"),
    "residual": ("concept", "delta"),
    "positions": ("boundary", "count"),
    "joint": ("normal", "zero", None),
}


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """How tokens are merged into concepts, and concepts spread over tokens."""

    compression: float  # tokens per concept on average, R in the paper
    compression_image: float | None = (
        None  # a target of the image tokens' own; `compression` is then of the text tokens
    )
    merge: Literal["sum", "last"] = "sum"  # a concept is the sum of its tokens, or the last of them
    # Noise on the boundaries of training. Either may be null; both: no noise.
    tau: float | None = 6.0  # boundaries are drawn with the probability, sharpened by this; 1: not sharpened
    sigma: float | None = None  # a normal number of this size is added to the probability; the paper's is 0.1
    ratio_weight: float = 0.03  # weight of the ratio loss in the total, where no controller sets it
    ratio_share: Literal["drawn", "threshold"] = "drawn"  # which boundaries the ratio loss counts (F in the paper)
    # What a concept adds to its tokens: itself (Eq. 10), or what the concept layers changed in it. The first counts the
    # stream twice, so that a converted MoE starts elsewhere than where it was.
    residual: Literal["concept", "delta"] = "concept"
    positions: Literal["boundary", "count"] = "boundary"  # a concept's position: its boundary token's, or counted
    joint: Literal["normal", "zero"] | None = "normal"  # decoder layers also project the concept; how that starts

    def __post_init__(self) -> None:
        for name, target in (("compression", self.compression), ("compression_image", self.compression_image)):
            if target is not None and not 1 < target < math.inf:
                bound = "finite" if target == math.inf else "above 1"
                raise ValueError(
                    f"{name} is tokens per concept and must be {bound}, got {target}; for no chunking use chunk: null"
                )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join("null" if choice is None else choice for choice in choices)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {known}")
        if self.tau is not None and self.tau < 1:
            raise ValueError(f"tau must be at least 1 (1: no sharpening; null: no draw), got {self.tau}")
        if self.sigma is not None and (self.sigma <= 0 or self.tau is not None):
            raise ValueError(
                f"sigma must be positive, and is an alternative to tau; got sigma={self.sigma}, tau={self.tau}; "
                "set tau: null for Gaussian noise, sigma: null for none of it"
            )
        if self.ratio_weight < 0:
            raise ValueError(f"ratio_weight must not be negative, got {self.ratio_weight}")

    @property
    def targets(self) -> dict[str, float]:
        """Target behind each ratio loss of `BackboneOutput.losses`: one of all tokens, or of text and of image."""
        if self.compression_image is None:
            return {"ratio": self.compression}
        return {"ratio": self.compression, "ratio_image": self.compression_image}


Counts = tuple[tuple[int, int], tuple[int, int]]  # (text, image) x (tokens, closed by the threshold)


@dataclass(frozen=True)
class Chunks:
    """Where the boundaries of one packed row are."""

    prob: Float[Tensor, " n"]  # chance that a token closes a concept; exactly 1 at a document's first token
    closes: Bool[Tensor, " n"]  # True where a token closes a concept
    concept_of_token: Int[Tensor, " n"]  # the concept that a token sees; with a cache, -1 where it is an earlier call's
    boundary: Int[Tensor, " m"]  # the token that closes each concept
    documents: Documents | None  # of the concepts; None where a call with a cache closed none
    counts: Counts  # in training over all ranks


def sharpen(prob: Float[Tensor, " n"], tau: float) -> Float[Tensor, " n"]:
    """Move probabilities away from a half (the paper's Eq. 5): not at all for tau = 1, to 0 or 1 for a large one."""
    return torch.where(prob >= THRESHOLD, prob ** (1 / tau), 1 - (1 - prob) ** (1 / tau))


def draw_boundaries(
    prob: Float[Tensor, " n"], tau: float | None = None, sigma: float | None = None
) -> Bool[Tensor, " n"]:
    """Boundaries of a training step, from torch's global generator; without tau and sigma, those of evaluation.

    A document's first token always closes: its probability is 1. (The paper does not say where its Gaussian noise goes.)
    """
    if tau is not None:
        sharp = sharpen(prob.detach(), tau)
        return torch.rand_like(sharp) < sharp
    if sigma is not None:
        return (prob.detach() + sigma * torch.randn_like(prob) >= THRESHOLD) | (prob == 1)
    return prob >= THRESHOLD


def open_up(
    prob: Float[Tensor, " n"], closes: Bool[Tensor, " n"], share: float
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Let a share of the tokens, drawn anew, close a concept with probability 1, whatever the router says.

    With a share of 1 every token is a concept of its own, and a converted model computes what its source did. The router
    gets no gradient from the tokens that were drawn.
    """
    drawn = torch.rand_like(prob) < share
    return prob.masked_fill(drawn, 1.0), closes | drawn


def confidence(prob: Float[Tensor, " n"], closes: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Exactly 1, with the gradient of the router's confidence in what was decided (a straight-through factor)."""
    sure = torch.where(closes, prob, 1 - prob)
    return 1 + (sure - sure.detach())


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.dtype = factor.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return grad, (grad * x).sum(-1, dtype=ctx.dtype)


def weigh(x: Float[Tensor, "n d"], factor: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """`x * factor[:, None]` where the factor is exactly 1 and only its gradient counts: nothing is multiplied."""
    return _Weigh.apply(x, factor)


class Chunker(nn.Module):
    """Says where concepts end, merges tokens, and smooths what comes back. The router's weights are its only ones.

    Attributes:
        open_share: in training, this share of the tokens closes a concept whatever the router says (`open_up`).
    """

    def __init__(self, width: int, config: ChunkConfig) -> None:
        super().__init__()
        self.config = config
        self.open_share = 0.0
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)

    def keys(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What the next token is compared with."""
        return _Unit.apply(_project(x, self.k_proj.weight))

    def prob(
        self,
        x: Float[Tensor, "n d"],
        keys: Float[Tensor, "n d"],
        documents: Documents,
        state: ChunkState | None = None,
        is_new: Bool[Tensor, " s"] | None = None,
    ) -> Float[Tensor, " n"]:
        """(1 - cos(q_n, k_{n-1})) / 2, and 1 at documents' starts; one function for whole rows, prefill and step.

        Args:
            state, is_new: with a cache, the sequences' state, and True for those without tokens so far.
        """
        similarity, queries = _Similarity.apply(_project(x, self.q_proj.weight), keys)
        forced = documents.is_start
        if state is not None and is_new is not None and state.router_key is not None:
            starts = documents.starts
            similarity = similarity.index_copy(0, starts, (queries[starts] * state.router_key).sum(-1))
            forced = forced & is_new[documents.document_of_token]
        return ((1 - similarity) / 2).clamp(0, 1).masked_fill(forced, 1.0)

    def merge(
        self, x: Float[Tensor, "n d"], closes: Bool[Tensor, " n"], boundary: Int[Tensor, " m"], documents: Documents
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "s d"] | None]:
        """Concept vectors, and (for sums) what each document's tokens after its last boundary add up to."""
        if self.config.merge == "last":
            return x.index_select(0, boundary), None
        num_concepts = len(boundary)
        so_far = closes.cumsum(0)
        concept = so_far - closes.to(so_far.dtype)
        document = documents.document_of_token
        is_open = concept >= so_far[documents.ends - 1][document]
        target = torch.where(is_open, num_concepts + document, concept)
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = precise.new_zeros(num_concepts + documents.num_documents, x.shape[1]).index_add(0, target, precise)
        return sums[:num_concepts].to(x.dtype), sums[num_concepts:]


class _Unit(torch.autograd.Function):
    """Vectors of length 1, as F.normalize, with half of its passes over memory in backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(EPS)
        unit = x / norm
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        unit, norm = ctx.saved_tensors
        along = (grad * unit).sum(-1, keepdim=True)
        return torch.addcmul(grad, unit, along, value=-1).div_(norm)


class _Similarity(torch.autograd.Function):
    """The cosine of each query with the key of the row before it, 0 for the first row; and the queries at length 1.

    Keys have length 1 already. No shifted copy is made, and backward knows each gradient's part along the query.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        norm = torch.linalg.vector_norm(queries, dim=-1, keepdim=True).clamp_min_(EPS)
        unit = queries / norm
        cosine = queries.new_zeros(len(queries))
        cosine[1:] = (unit[1:] * keys[:-1]).sum(-1)
        ctx.save_for_backward(unit, norm, keys, cosine)
        ctx.mark_non_differentiable(unit)
        ctx.set_materialize_grads(False)  # or zeros would be made for `unit`
        return cosine, unit

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        if grad is None:
            return None, None
        unit, norm, keys, cosine = ctx.saved_tensors
        query_grad, key_grad = torch.empty_like(unit), torch.empty_like(keys)
        query_grad[0], key_grad[-1] = 0, 0
        share = grad[1:, None] / norm[1:]
        along = share * cosine[1:, None]
        torch.mul(keys[:-1], share, out=query_grad[1:]).addcmul_(unit[1:], along, value=-1)
        torch.mul(unit[1:], grad[1:, None], out=key_grad[:-1])
        return query_grad, key_grad


def _project(x: Float[Tensor, "n d"], weight: Float[Tensor, "d d"]) -> Float[Tensor, "n d"]:
    precise = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(precise), weight.to(precise))


def find_boundaries(
    closes: Bool[Tensor, " n"], documents: Documents, counts: Int[Tensor, "2 2"]
) -> tuple[Int[Tensor, " m"], list[int], Counts]:
    """The closing tokens, each document's number of concepts, and `counts` brought along to the host.

    The one place of a training step where the host waits for the device.
    """
    so_far = closes.cumsum(0)
    at_end = so_far[documents.ends - 1]
    per_document = torch.diff(at_end, prepend=at_end.new_zeros(1))
    *concepts, text, text_closed, image, image_closed = torch.cat([per_document, counts.flatten()]).tolist()
    boundary = torch.nonzero_static(closes, size=sum(concepts)).squeeze(1)
    return boundary, concepts, ((text, text_closed), (image, image_closed))


def smooth(
    concepts: Float[Tensor, "m d"],
    prob: Float[Tensor, " m"],
    before: Float[Tensor, "s d"] | None = None,
    starts: Int[Tensor, " s"] | None = None,
) -> Float[Tensor, "m d"]:
    """The recursive moving average s_i = p_i c_i + (1 - p_i) s_{i-1}, in at least float32.

    Recursive as in the paper's figure and code; its Eq. 8 prints the unsmoothed previous concept. Documents need no
    care: p is exactly 1 at the first concept of each. With a cache, `before` is what came before the concepts at
    `starts`.
    """
    decay, value = 1 - prob, prob[:, None] * concepts.to(prob.dtype)
    if before is not None and starts is not None:
        value = value.index_add(0, starts, decay[starts][:, None] * before)
        decay = decay.index_fill(0, starts, 0)
    return linear_scan(decay, value)
