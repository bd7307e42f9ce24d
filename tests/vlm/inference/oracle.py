"""Slow and obvious: a row with more text behind it, and whole rows read from pixels, alone and without a cache."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from data.batch import collate
from data.sample import Question
from data.text import Row, prompt_row
from vlm.inference.pictures import PictureFeatures, answering
from vlm.model import VisionLanguageModel


def row_of(model: VisionLanguageModel, question: Question) -> Row:
    row = prompt_row(question.content, question.images, model.tokenizer, model.layout)
    return replace(row, sample_id=question.id)


def longer(row: Row, ids: Sequence[int]) -> Row:
    """The row with text after it. Prompts end in text, so time goes on from the last token."""
    time = row.positions[-1, 0] + 1 + np.arange(len(ids))
    return replace(
        row,
        ids=np.concatenate([row.ids, np.array(ids, dtype=np.int64)]),
        loss=np.concatenate([row.loss, np.ones(len(ids), dtype=bool)]),
        is_image=np.concatenate([row.is_image, np.zeros(len(ids), dtype=bool)]),
        positions=np.concatenate([row.positions, np.repeat(time[:, None], 3, axis=1)]),
    )


@torch.no_grad()
def logits_by_forward(model: VisionLanguageModel, row: Row) -> torch.Tensor:
    """The whole row from pixels, without cache, memo or neighbours -> (n v)."""
    assert model.layout is not None
    if model.embed.weight.dtype == torch.float32:
        return model.logits(model(collate([row], model.layout.spec)).hidden)
    pictures = PictureFeatures(model)  # knows how to make pixels of another precision
    pictures.prepare([row])
    with answering(model, pictures):
        return model.logits(model(collate([row], model.layout.spec, cached=pictures)).hidden)


def logprobs_by_forward(model: VisionLanguageModel, row: Row) -> torch.Tensor:
    return logits_by_forward(model, row).log_softmax(1)
