"""Prompts as the backbone takes them, and what must be right before it sees them.

In: rows (data/text.py) that end where the answer begins. Out: packed vectors with their positions. Prompts of unequal length
are packed, never padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.batch import collate
from data.sample import BadRecord
from data.text import Row, token_row
from vlm.inference.pictures import PictureFeatures
from vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class PackedPrompts:
    """Rows one after another, pictures in their slots."""

    x: Float[Tensor, "n d"]
    lengths: tuple[int, ...]
    positions: Int[Tensor, "n 3"]
    is_image: Bool[Tensor, " n"]


def embed_prompts(model: VisionLanguageModel, rows: Sequence[Row], pictures: PictureFeatures) -> PackedPrompts:
    """Prompts, pictures in their slots, one after another.

    Raises:
        BadRecord: a picture cannot be decoded; names the row.
    """
    pictures.prepare(rows)
    spec = None if model.layout is None else model.layout.spec
    batch = collate(rows, spec, cached=pictures).to(model.embed.weight.device)
    return PackedPrompts(model.embed_batch(batch), batch.lengths, batch.positions, batch.is_image)


def embed_answers(model: VisionLanguageModel, answers: Sequence[tuple[Row, Sequence[int]]]) -> PackedPrompts:
    """Tokens that stand right after a prompt, for several pairs of prompt and tokens."""
    rows = [token_row(ids, next_time(row)) for row, ids in answers]
    batch = collate(rows, None).to(model.embed.weight.device)
    return PackedPrompts(model.embed(batch.ids), batch.lengths, batch.positions, batch.is_image)


def next_time(row: Row) -> int:
    """The position of the first token after a row: one past the largest, as a picture takes its longer side."""
    return int(row.positions.max()) + 1


def check_prompt(model: VisionLanguageModel, row: Row, new_tokens: int) -> None:
    """Refuse what this model cannot read, or could not answer within its positions.

    Args:
        new_tokens: that may follow the prompt.

    Raises:
        BadRecord: names the row, and says what came and what is needed.
    """
    name, positions = row.sample_id, model.config.backbone.max_positions
    if len(row) == 0:
        raise BadRecord(f"{name}: the prompt has no tokens; ask something")
    time = next_time(row)
    if time + new_tokens > positions:
        raise BadRecord(
            f"{name}: the prompt takes {time} positions and its answer up to {new_tokens}, but the model has "
            f"{positions}; shorten the prompt or lower max_new_tokens"
        )
    if row.ids.min() < 0 or row.ids.max() >= model.tokenizer.vocab_size:
        raise BadRecord(
            f"{name}: the prompt has ids from {row.ids.min()} to {row.ids.max()}, but the model's tokenizer has "
            f"{model.tokenizer.vocab_size}; make it with the model's own tokenizer"
        )
    layout, slots = model.layout, int(row.is_image.sum())
    if layout is None:
        if row.pictures or slots:
            raise BadRecord(f"{name}: the prompt has a picture but this model has no image encoder; ask without it")
    else:
        try:
            taken = [layout.plan_stored(picture.data).slots_per_crop for picture in row.pictures]
        except BadRecord as error:
            raise BadRecord(f"{name}: {error}") from error
        if taken != [picture.slots_per_crop for picture in row.pictures] or slots != sum(map(sum, taken)):
            raise BadRecord(
                f"{name}: the prompt has {slots} image slots but its {len(row.pictures)} pictures take "
                f"{', '.join(str(sum(picture)) for picture in taken) or 'none'}; make it with the model's own layout"
            )
