"""What a probe changes in a packed row: the words of some records, and the pixels of some crops."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch


def other_words(
    batch: Batch, places: Sequence[tuple[int, int]], vocab_size: int, chance: np.random.Generator
) -> Tensor:
    """Ids in which the words of records, from a token of each on, are others.

    Args:
        places: (record, its first token to change).
    """
    ids = batch.ids.cpu().clone()
    parts = list(ids.split(list(batch.lengths)))
    masks = batch.is_image.cpu().split(list(batch.lengths))
    for place, cut in places:
        drawn = chance.integers(0, vocab_size, len(parts[place]))
        is_other = ~masks[place] & (torch.arange(len(parts[place])) >= cut)
        parts[place] = torch.where(is_other, torch.from_numpy(drawn), parts[place])
    return torch.cat(parts).to(batch.ids.device)


def other_pixels(batch: Batch, crops: Sequence[int], chance: np.random.Generator) -> tuple[Tensor | None, ...]:
    """The images of a batch, with noise in place of some crops."""
    images = list(batch.images)
    for crop in crops:
        image = images[crop]
        assert image is not None
        noise = chance.integers(0, 256, tuple(image.shape), dtype=np.uint8)
        images[crop] = torch.from_numpy(noise).to(image.device)
    return tuple(images)
