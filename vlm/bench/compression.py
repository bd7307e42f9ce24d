"""Does the chunker hold its target? A toy language, learned in seconds, chunked with each target and each kind of weight.

The task: words of a made-up language; the next word is one of two, which the last two words decide. The toy model has no
layers but concept layers, so whatever a letter knows of earlier ones has come through a concept, and it matters where
concepts end. (With token layers around, the model reads the letters there, nothing depends on the boundaries, and their
probabilities stay near a half: nothing pulls at them but the target.)
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.backbone import (
    BackboneConfig,
    BackboneOutput,
    ChunkConfig,
    ConceptMoE,
    Documents,
    ExpertsConfig,
    RatioController,
)

NUM_LETTERS, NUM_WORDS = 24, 24
BINS = 20
_draw = random.Random(7)
NEXT = {
    (one, two): (_draw.randrange(NUM_WORDS), _draw.randrange(NUM_WORDS))
    for one in range(NUM_WORDS)
    for two in range(NUM_WORDS)
}
WORDS = [[1 + _draw.randrange(NUM_LETTERS - 1) for _ in range(2 + _draw.randrange(6))] + [0] for _ in range(NUM_WORDS)]


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one training came to."""

    target: float  # tokens per concept
    weight: str  # "controller", or the constant weight
    seed: int
    compression: float  # measured in evaluation mode on new rows
    loss: float  # of the language, in nats for a letter, on the same rows
    near_half: float  # share of the probabilities, first tokens left out, that lie between 0.4 and 0.6
    histogram: tuple[float, ...]  # shares of the probabilities in 20 equal bins, first tokens left out


def rows_of_words(draw: random.Random, num_tokens: int = 512) -> tuple[list[int], list[int]]:
    """Letters and document lengths of one row."""
    ids: list[int] = []
    lengths: list[int] = []
    while len(ids) < num_tokens:
        one, two, before = draw.randrange(NUM_WORDS), draw.randrange(NUM_WORDS), len(ids)
        for _ in range(draw.randint(8, 14)):
            ids += WORDS[two]
            one, two = two, draw.choice(NEXT[one, two])
        lengths.append(len(ids) - before)
    return ids, lengths


class ToyModel(nn.Module):
    """A tiny language model whose one layer works on concepts."""

    def __init__(self, chunk: ChunkConfig) -> None:
        super().__init__()
        self.backbone = ConceptMoE(
            BackboneConfig(
                width=32,
                num_heads=2,
                num_kv_heads=1,
                head_width=16,
                encoder_layers=0,
                concept_layers=1,
                decoder_layers=0,
                experts=ExpertsConfig(num_experts=4, top_k=2, hidden=32),
                chunk=chunk,
                init_std=0.1,
            )
        )
        self.embed, self.head = nn.Embedding(NUM_LETTERS, 32), nn.Linear(32, NUM_LETTERS)


def hold(
    target: float,
    weight: float | None,
    *,
    seed: int = 0,
    steps: int = 1500,
    progress: Callable[[int], None] | None = None,
) -> Held:
    """Train the toy model, and measure its compression as evaluation chunks.

    Args:
        weight: the ratio loss's constant weight, which then counts the drawn boundaries as the paper does; None for the
            controller, which counts those of the threshold.
        progress: told after each step.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model = ToyModel(ChunkConfig(compression=target, ratio_share="drawn" if weight is not None else "threshold"))
    controller = RatioController(target) if weight is None else None
    strength = 0.0 if weight is None else weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        loss, out = _row(model, draw)
        assert out.chunks is not None
        if controller is not None:
            strength = controller.weight
        optimizer.zero_grad()
        (loss + strength * out.losses["ratio"] + 0.01 * out.losses["balance"]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if controller is not None:
            controller.update(*torch.tensor(out.chunks.counts).sum(0).tolist())
        if progress is not None:
            progress(step + 1)
    return _measure(model.eval(), draw, target, "controller" if weight is None else f"{weight:g}", seed)


def _row(model: ToyModel, draw: random.Random) -> tuple[Tensor, BackboneOutput]:
    ids, lengths = rows_of_words(draw)
    documents, tokens = Documents.from_lengths(lengths), torch.tensor(ids)
    out = model.backbone(model.embed(tokens), documents)
    labels = tokens.roll(-1).index_fill(0, documents.ends - 1, -100)
    return F.cross_entropy(model.head(out.hidden), labels), out


@torch.no_grad()
def _measure(model: ToyModel, draw: random.Random, target: float, weight: str, seed: int) -> Held:
    losses, probs, closed, total = [], [], 0, 0
    for _ in range(10):
        loss, out = _row(model, draw)
        assert out.chunks is not None
        losses.append(loss.item())
        total += len(out.chunks.prob)
        closed += int(out.chunks.closes.sum())
        probs.append(out.chunks.prob[out.chunks.prob < 1])
    prob = torch.cat(probs)
    shares = torch.histc(prob, BINS, 0, 1) / len(prob)
    return Held(
        target=target,
        weight=weight,
        seed=seed,
        compression=total / closed,
        loss=sum(losses) / len(losses),
        near_half=((prob > 0.4) & (prob < 0.6)).float().mean().item(),
        histogram=tuple(round(share, 4) for share in shares.tolist()),
    )
