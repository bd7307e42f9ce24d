"""The ratio loss: how far the chunker is from its target of tokens per concept.

Source: ConceptMoE (arXiv 2601.21420) sec. 3.2, Eq. 3-4. What weight the loss gets is `controller.py`'s or the config's.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm.backbone.chunk import THRESHOLD, ChunkConfig


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
    # Slices: a list as index would be copied to the device, for which the host waits.
    groups = [slice(0, 2)] if config.compression_image is None else [slice(0, 1), slice(1, 2)]
    losses = {}
    for (name, target), group in zip(config.targets.items(), groups, strict=True):
        share = counts[group, column].sum().to(prob.dtype) / counts[group, 0].sum().clamp(min=1)
        num_tokens = num_local[group].sum()
        mine = kinds[group].any(0)
        mean_prob = (prob * mine).sum() / num_tokens.clamp(min=1)
        ranks = torch.distributed.get_world_size() if over_ranks else 1
        portion = ranks * num_tokens.to(prob.dtype) / counts[group, 0].sum().clamp(min=1)
        losses[name] = _ratio_loss(mean_prob, share, target) * portion
    return losses, counts[:, :2]
