"""Batch: packed documents as tensors, with everything the model must know about its pictures.

In: rows. Out: a `Batch`. Data decides where a picture goes (slots, counted here on the CPU); the model decides what
fills it. Labels are shifted inside each document, so no document's last token is asked for the next one's first.
"""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from data.image import ImageSpec, prepare_crops
from data.sample import BadRecord
from data.text import Picture, Row

NO_LABEL = -100


@dataclass(frozen=True)
class Batch:
    """One packed row of `n` tokens: whole documents, one after another.

    Raises (by `check`):
        ValueError: the parts contradict each other.
    """

    ids: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]  # the next token of the same document where it is a target, else -100
    positions: Int64[Tensor, "n 3"]  # time, row, column; restart in each document
    lengths: tuple[int, ...]  # tokens of each document
    is_image: Bool[Tensor, " n"]
    images: tuple[UInt8[Tensor, "3 _ _"] | None, ...]  # crops in slot order; None: the features are cached
    image_keys: tuple[str, ...]  # feature key of each crop
    slots_per_image: tuple[int, ...]  # of each crop, markers included
    sample_ids: tuple[str, ...]  # one per document
    cursor: Any  # where in the data order this batch came from
    num_image_slots: int
    num_answered: int  # labels that are not -100
    wait_s: float = 0.0  # how long the consumer waited for this batch

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            ids=move(self.ids),
            labels=move(self.labels),
            positions=move(self.positions),
            is_image=move(self.is_image),
            images=tuple(None if image is None else move(image) for image in self.images),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # One tensor for all pictures: a worker sends each tensor through a file descriptor of its own.
        # Row by row, the colours of a pixel side by side, as prepared pixels lie in memory.
        present = [image.permute(1, 2, 0).flatten() for image in self.images if image is not None]
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["images"] = tuple(None if image is None else tuple(image.shape) for image in self.images)
        return _restore, (values, torch.cat(present) if present else None)

    def check(self) -> None:
        """Raise ValueError if lengths, slots, labels or positions disagree."""
        n = len(self.ids)
        if sum(self.lengths) != n or min(self.lengths, default=0) < 1:
            raise ValueError(f"documents of {self.lengths} tokens do not make up the batch's {n} tokens")
        if len(self.sample_ids) != len(self.lengths):
            raise ValueError(f"{len(self.sample_ids)} sample ids for {len(self.lengths)} documents")
        counts = len(self.images), len(self.image_keys), len(self.slots_per_image)
        if len(set(counts)) != 1:
            raise ValueError(f"pictures, keys and slot counts differ in number: {counts}")
        slots = int(self.is_image.sum())
        if not slots == self.num_image_slots == sum(self.slots_per_image):
            raise ValueError(
                f"{slots} tokens are image slots, the batch counts {self.num_image_slots} and its pictures take "
                f"{sum(self.slots_per_image)}; a picture was cut or lost on the way"
            )
        answered = self.labels != NO_LABEL
        if int(answered.sum()) != self.num_answered:
            raise ValueError(f"{int(answered.sum())} labels are set, the batch counts {self.num_answered}")
        last = torch.tensor(self.lengths).cumsum(0) - 1
        if answered[last].any():
            raise ValueError("the last token of a document has a label, which could only be another document's token")
        if (self.labels != self.ids.roll(-1))[answered].any():
            raise ValueError("a label is not the id of the next token")
        if (answered & self.is_image.roll(-1)).any():
            raise ValueError("a label asks for an image slot")
        if self.positions[last - torch.tensor(self.lengths) + 1].any():
            raise ValueError("the positions of a document do not begin at 0")


def collate(rows: Sequence[Row], spec: ImageSpec | None, cached: Container[str] = (), cursor: Any = None) -> Batch:
    """Put rows into one batch and decode the pictures whose features are not cached.

    Args:
        rows: whole documents, in order.
        spec: how the encoder wants its pictures; None if no row has one.
        cached: feature keys of pictures that need no pixels.
        cursor: kept as it is.

    Raises:
        BadRecord: a picture cannot be decoded; names the sample.
        ValueError: no rows, or pictures without a spec.
    """
    images = []
    for row in rows:
        if row.pictures and spec is None:
            raise ValueError(f"sample {row.sample_id!r} has {len(row.pictures)} pictures but there is no ImageSpec")
        images.append([] if spec is None else row_images(row, spec, cached))
    return join(rows, images, cursor)


def join(rows: Sequence[Row], images: Sequence[Sequence[UInt8[Tensor, "3 _ _"] | None]], cursor: Any = None) -> Batch:
    """Put rows into one batch whose pictures are decoded, as `row_images` gives them for each row.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a batch needs at least one row, got none")
    ids = np.concatenate([row.ids for row in rows])
    labels = np.concatenate([np.append(np.where(row.loss[1:], row.ids[1:], NO_LABEL), NO_LABEL) for row in rows])
    return Batch(
        ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        positions=torch.from_numpy(np.concatenate([row.positions for row in rows])),
        lengths=tuple(len(row) for row in rows),
        is_image=torch.from_numpy(np.concatenate([row.is_image for row in rows])),
        images=tuple(crop for crops in images for crop in crops),
        image_keys=tuple(crop.feature_key for row in rows for picture in row.pictures for crop in picture.crops),
        slots_per_image=tuple(slots for row in rows for picture in row.pictures for slots in picture.slots_per_crop),
        sample_ids=tuple(row.sample_id for row in rows),
        cursor=cursor,
        num_image_slots=sum(int(row.is_image.sum()) for row in rows),
        num_answered=int((labels != NO_LABEL).sum()),
    )


def row_images(row: Row, spec: ImageSpec, cached: Container[str] = ()) -> list[UInt8[Tensor, "3 _ _"] | None]:
    """The pixels of each crop of a row's pictures, None for the pictures that need none."""
    images: list[UInt8[Tensor, "3 _ _"] | None] = []
    for picture in row.pictures:
        if is_cached(picture, cached):
            images += [None] * len(picture.crops)
            continue
        try:
            crops = prepare_crops(picture.data, spec, picture.augmentation)
        except BadRecord as error:
            raise BadRecord(f"sample {row.sample_id!r}: {error}", error.reason) from None
        if len(crops) != len(picture.slots_per_crop):
            raise ValueError(
                f"sample {row.sample_id!r}: a picture has {len(picture.slots_per_crop)} crops in its row and {len(crops)} by "
                "the ImageSpec; make rows and batches with one ImageLayout and its spec"
            )
        images += crops
    return images


def is_cached(picture: Picture, cached: Container[str]) -> bool:
    """True where the features of all crops are there: else all are made anew."""
    return all(crop.feature_key in cached for crop in picture.crops)


def _restore(values: dict[str, Any], flat: Tensor | None) -> Batch:
    shapes = values["images"]
    parts = iter(()) if flat is None else iter(flat.split([math.prod(shape) for shape in shapes if shape is not None]))
    images = tuple(None if shape is None else _as_pixels(next(parts), *shape) for shape in shapes)
    return Batch(**{**values, "images": images})


def _as_pixels(part: Tensor, colours: int, height: int, width: int) -> UInt8[Tensor, "3 H W"]:
    return part.view(height, width, colours).permute(2, 0, 1)
