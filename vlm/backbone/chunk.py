"""Group tokens into concepts, and spread concepts back over tokens.

In: packed token vectors (n d). Out: packed concept vectors (m d), m <= n, and after the concept layers (n d) again.
Source: ConceptMoE (arXiv 2601.21420) sec. 3.2-3.4; the router follows H-Net (arXiv 2507.07955) sec. 2.2.

A boundary token ends its chunk: the concept is made of the tokens after the previous boundary up to and including its
own, and is seen from its own boundary token on. (The other reading, from a boundary to the next, would let tokens see
later ones.) Unlike in the paper's demo each document's first token closes a concept of its own, so documents never mix.
Everything here runs outside autocast, in at least float32.
"""

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


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """How tokens are merged into concepts."""

    compression: float  # tokens per concept on average, R in the paper
    compression_image: float | None = (
        None  # a target of the image tokens' own; `compression` is then of the text tokens
    )
    merge: Literal["sum", "last"] = "sum"  # a concept is the sum of its tokens, or the last of them
    tau: float | None = 6.0  # sharpening of the probability that training draws boundaries from; None: no draw
    ratio_weight: float = 0.03  # weight of the ratio loss in the total, where no controller sets it
    ratio_share: Literal["drawn", "threshold"] = "drawn"  # which boundaries the ratio loss counts (F in the paper)
    joint: bool = True  # decoder layers also project the concept that each token sees

    def __post_init__(self) -> None:
        for name, target in (("compression", self.compression), ("compression_image", self.compression_image)):
            if target is not None and target <= 1:
                raise ValueError(
                    f"{name} is tokens per concept and must be above 1, got {target}; for no chunking use chunk: null"
                )
        if self.merge not in ("sum", "last"):
            raise ValueError(f"unknown merge {self.merge!r}; known: sum, last")
        if self.ratio_share not in ("drawn", "threshold"):
            raise ValueError(f"unknown ratio_share {self.ratio_share!r}; known: drawn, threshold")
        if self.tau is not None and self.tau < 1:
            raise ValueError(f"tau must be at least 1 (1: no sharpening; null: no draw), got {self.tau}")
        if self.ratio_weight < 0:
            raise ValueError(f"ratio_weight must not be negative, got {self.ratio_weight}")

    @property
    def targets(self) -> dict[str, float]:
        """Target behind each ratio loss of `BackboneOutput.losses`: one of all tokens, or of text and of image."""
        if self.compression_image is None:
            return {"ratio": self.compression}
        return {"ratio": self.compression, "ratio_image": self.compression_image}


@dataclass(frozen=True)
class Chunks:
    """Where the boundaries of one packed row are."""

    prob: Float[Tensor, " n"]  # chance that a token closes a concept; exactly 1 at a document's first token
    closes: Bool[Tensor, " n"]  # True where a token closes a concept
    concept_of_token: Int[Tensor, " n"]  # the concept that a token sees; with a cache, -1 where it is an earlier call's
    boundary: Int[Tensor, " m"]  # the token that closes each concept
    documents: Documents | None  # of the concepts; None where a call with a cache closed none
    counts: Int[Tensor, "2 2"]  # (text, image) x (tokens, closed by the threshold); in training over all ranks


def sharpen(prob: Float[Tensor, " n"], tau: float) -> Float[Tensor, " n"]:
    """Move probabilities away from a half (the paper's Eq. 5): not at all for tau = 1, to 0 or 1 for a large one."""
    return torch.where(prob >= THRESHOLD, prob ** (1 / tau), 1 - (1 - prob) ** (1 / tau))


def draw_boundaries(prob: Float[Tensor, " n"], tau: float | None) -> Bool[Tensor, " n"]:
    """Boundaries of a training step, from torch's global generator; tau = None gives those of evaluation.

    A document's first token always closes: its probability is 1, and a uniform number is below 1.
    """
    if tau is None:
        return prob >= THRESHOLD
    sharp = sharpen(prob.detach(), tau)
    return torch.rand_like(sharp) < sharp


def ratio_loss(prob: Float[Tensor, " n"], closes: Bool[Tensor, " n"], compression: float) -> Float[Tensor, ""]:
    """How far a row is from its target of tokens per concept; 1 at the target (the paper's Eq. 3-4).

    R is `compression`, F the share of tokens that close a concept, G the mean probability. Only G carries a gradient,
    and dL/dG = R / (R - 1) * (R F - 1): the loss pushes probabilities down exactly while there are too many concepts.
    Documents' first tokens count, in F and in G: they are concepts that the model pays for.
    """
    return _ratio_loss(prob.mean(), closes.to(prob.dtype).mean(), compression)


def _ratio_loss(mean_prob: Tensor, share: Tensor, compression: float) -> Tensor:
    both = (compression - 1) * share * mean_prob + (1 - share) * (1 - mean_prob)
    return compression / (compression - 1) * both


def ratio_losses(
    config: ChunkConfig,
    prob: Float[Tensor, " n"],
    drawn: Bool[Tensor, " n"],
    is_image: Bool[Tensor, " n"] | None,
    over_ranks: bool,
) -> tuple[dict[str, Float[Tensor, ""]], Int[Tensor, "2 2"]]:
    """The ratio loss of each target, and (text, image) x (tokens, closed by the threshold).

    F is that of all ranks, and each rank's loss is scaled by what it has of all tokens: as the loss is linear in G, the
    mean over ranks is then the loss of all tokens together. One collective whatever the row holds, so that a rank without
    images cannot hang the others.
    """
    image = torch.zeros_like(drawn) if is_image is None else is_image
    kinds = torch.stack([~image, image])
    counted = torch.stack([torch.ones_like(drawn), prob >= THRESHOLD, drawn])
    counts = (kinds[:, None] & counted).sum(-1)
    num_local = counts[:, 0]
    if over_ranks:
        counts = counts.clone()
        torch.distributed.all_reduce(counts)
    column = 1 if config.ratio_share == "threshold" else 2
    groups = [[0, 1]] if config.compression_image is None else [[0], [1]]
    losses = {}
    for (name, target), group in zip(config.targets.items(), groups, strict=True):
        share = counts[group, column].sum().to(prob.dtype) / counts[group, 0].sum().clamp(min=1)
        num_tokens = num_local[group].sum()
        mine = torch.ones_like(drawn) if len(group) == 2 else kinds[group[0]]
        mean_prob = (prob * mine).sum() / num_tokens.clamp(min=1)
        ranks = torch.distributed.get_world_size() if over_ranks else 1
        portion = ranks * num_tokens / counts[group, 0].sum().clamp(min=1)
        losses[name] = _ratio_loss(mean_prob, share, target) * portion
    return losses, counts[:, :2]


def confidence(prob: Float[Tensor, " n"], closes: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Exactly 1, with the gradient of the router's confidence in what was decided (a straight-through factor)."""
    sure = torch.where(closes, prob, 1 - prob)
    return 1 + (sure - sure.detach())


class Chunker(nn.Module):
    """Says where concepts end, merges tokens, and smooths what comes back. The router's weights are its only ones."""

    def __init__(self, width: int, config: ChunkConfig) -> None:
        super().__init__()
        self.config = config
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)

    def keys(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What the next token is compared with."""
        return _normalized(x, self.k_proj.weight)

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
        previous = keys.roll(1, 0)
        forced = documents.is_start
        if state is not None and is_new is not None and state.router_key is not None:
            previous = previous.index_copy(0, documents.starts, state.router_key)
            forced = forced & is_new[documents.document_of_token]
        similarity = (_normalized(x, self.q_proj.weight) * previous).sum(-1)
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


def _normalized(x: Float[Tensor, "n d"], weight: Float[Tensor, "d d"]) -> Float[Tensor, "n d"]:
    precise = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(F.linear(x.to(precise), weight.to(precise)), dim=-1, eps=1e-12)


def find_boundaries(closes: Bool[Tensor, " n"], documents: Documents) -> tuple[Int[Tensor, " m"], list[int]]:
    """The closing tokens, and each document's number of concepts. The one place where the host waits for a shape."""
    so_far = closes.cumsum(0)
    at_end = so_far[documents.ends - 1]
    per_document = torch.diff(at_end, prepend=at_end.new_zeros(1)).tolist()
    return torch.nonzero_static(closes, size=sum(per_document)).squeeze(1), per_document


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
