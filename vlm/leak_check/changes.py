"""What is changed in a row, at random, and the number of each record whose gradient is looked at."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from data.batch import Batch
from vlm.leak_check.records import Record
from vlm.leak_check.trace import Trace
from vlm.model import VisionLanguageModel
from vlm.training.loss import answered_cross_entropy


def other_words(
    batch: Batch, vocab_size: int, chance: np.random.Generator, places: Sequence[tuple[int, int]]
) -> Int64[Tensor, " n"]:
    """Ids in which the words of some records are others.

    Args:
        places: (record, token from which on they are others).
    """
    ids = batch.ids.cpu().clone()
    parts = list(ids.split(list(batch.lengths)))
    masks = batch.is_image.cpu().split(list(batch.lengths))
    for place, cut in places:
        drawn = torch.from_numpy(chance.integers(0, vocab_size, len(parts[place])))
        is_other = ~masks[place] & (torch.arange(len(parts[place])) >= cut)
        parts[place] = torch.where(is_other, drawn, parts[place])
    return torch.cat(parts).to(batch.ids.device)


def other_pixels(batch: Batch, chance: np.random.Generator, crops: Sequence[int]) -> tuple[Tensor | None, ...]:
    """The batch's images, noise in the place of some."""
    images = list(batch.images)
    for crop in crops:
        image = images[crop]
        assert image is not None
        noise = chance.integers(0, 256, tuple(image.shape), dtype=np.uint8)
        images[crop] = torch.from_numpy(noise).to(image.device)
    return tuple(images)


def target_of(
    model: VisionLanguageModel, found: Trace, place: int, record: Record, tokens: int | None = None
) -> Float[Tensor, ""]:
    """A number made of all of a record's hidden vectors and probabilities, and of its loss.

    Args:
        tokens: of its first tokens alone, without the loss.
    """
    chance = torch.Generator().manual_seed(record.seed)
    hidden = found.stations["hidden"].rows(place)
    weight = torch.randn(hidden.shape, generator=chance, dtype=torch.float64).to(hidden)
    target = (hidden * weight)[:tokens].sum()
    if (station := found.stations.get("backbone.chunker: probabilities")) is not None:
        prob = station.rows(place)
        target = target + (prob * weight[:, 0].to(prob))[:tokens].sum()
    labels = found.batch.labels[found.tokens_of(place)]
    if tokens is None and bool((labels >= 0).any()):
        target = target + answered_cross_entropy(hidden, labels, model.head_weight)
    return target
