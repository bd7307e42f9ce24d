"""The pipelines that `vlm bench data` puts side by side: records in, packed rows with pixels out, the same work in each.

Ours is the loader of training itself. Beside it stand webdataset's own pipeline, decoding by Pillow or by torchvision, with what
a user writes around it: the same tokenizer, the same chat format, the same 224 px (bicubic, antialiased), packed as they come.
Each yields rows and says what it went through; where another library goes on for ever, one epoch is taken of it.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from data.batch import Batch
from data.image import ImageLayout, ImageSpec
from data.module import DataModule
from data.tokenizer import Tokenizer

SPEC = ImageSpec(size_px=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", fit="squash")
GRID = (14, 14)  # of patches of 16 px
ROW_TOKENS = 4096
WINDOWS = 3  # of each lane
SHUFFLED = 200  # records in webdataset's shuffle buffer
NO_LABEL = -100
Pixels = UInt8[Tensor, "3 H W"]


@dataclass(frozen=True)
class PackedRow:
    """What every pipeline makes: a row of whole records."""

    ids: Int64[Tensor, " n"]
    images: tuple[Pixels, ...]
    sample_ids: tuple[str, ...]
    lengths: tuple[int, ...]


Pipeline = Callable[[], Iterator[PackedRow]]


def ours(shards: Path, num_workers: int = 0, records: int | None = None) -> Iterator[PackedRow]:
    """The training loader.

    Args:
        records: it goes on for ever; at least so many are taken. None: `records_of_windows`.
    """
    total = records_of_windows(shards, num_workers) if records is None else records
    given = 0
    for batch in _training_batches(shards, num_workers):
        given += len(batch.lengths)
        images = tuple(image for image in batch.images if image is not None)
        yield PackedRow(batch.ids, images, batch.sample_ids, batch.lengths)
        if given >= total:
            return


@cache
def records_of_windows(shards: Path, num_workers: int) -> int:
    """Records of the first windows of each lane, a small, a middle and a full one: planning a window that is then left would count
    against the loader."""
    windows = dict.fromkeys(range(max(1, num_workers)), 0)
    total = 0
    for batch in _training_batches(shards, num_workers):
        windows[batch.cursor.lane] = batch.cursor.window
        total += len(batch.lengths) if batch.cursor.window < WINDOWS else 0
        if min(windows.values()) >= WINDOWS:
            break
    return total


def _training_batches(shards: Path, num_workers: int) -> Iterator[Batch]:
    data = DataModule(
        "demo",
        ImageLayout(SPEC, GRID),
        [str(shards)],
        row_tokens=ROW_TOKENS,
        num_workers=num_workers,
        lanes=max(1, num_workers),
        steps_per_epoch=1_000_000,
    )
    loader = data.train_dataloader()
    try:
        yield from loader
    finally:
        loader.close()


def webdataset(shards: Path, decode: str) -> Iterator[PackedRow]:
    """webdataset's own pipeline, shuffled and decoded as its documents show.

    Args:
        decode: `pil` for its own decoder and Pillow's resize; `torchvision` for a decoder of the user's.
    """
    from webdataset.compat import WebDataset

    paths = sorted(str(path) for path in shards.glob("*.tar"))
    dataset: Any = WebDataset(paths, shardshuffle=len(paths), seed=0).shuffle(SHUFFLED)
    if decode == "pil":
        dataset = dataset.decode("pil").map_dict(jpg=resized_by_pillow)
    else:
        dataset = dataset.map_dict(jpg=decoded_by_torchvision, json=json.loads)
    return pack_as_they_come((sample["jpg"], sample["json"]) for sample in dataset)


def resized_by_pillow(picture: Image.Image) -> Pixels:
    """224 px, as a tensor."""
    small = picture.convert("RGB").resize((SPEC.size_px, SPEC.size_px), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def decoded_by_pillow(data: bytes) -> Pixels:
    """Stored bytes to 224 px."""
    return resized_by_pillow(Image.open(io.BytesIO(data)))


def decoded_by_torchvision(data: bytes) -> Pixels:
    """Stored bytes to 224 px."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    size = [SPEC.size_px, SPEC.size_px]
    decoded: Any = decode_jpeg(stored, mode=ImageReadMode.RGB)
    return resize(decoded, size, InterpolationMode.BICUBIC, antialias=True)


def pack_as_they_come(samples: Iterable[tuple[Pixels, Mapping[str, Any]]]) -> Iterator[PackedRow]:
    """Tokenise, and fill a row until the next record does not fit: what is usually written around a loader."""
    tokenizer = Tokenizer("demo")
    waiting: list[tuple[Pixels, str, list[int]]] = []
    used = 0
    for image, fields in samples:
        ids, _ = tokens_of(fields, tokenizer)
        if waiting and used + len(ids) > ROW_TOKENS:
            yield _row(waiting)
            waiting, used = [], 0
        waiting.append((image, fields["id"], ids))
        used += len(ids)
    if waiting:
        yield _row(waiting)


def tokens_of(fields: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids and labels of a record in this project's chat format, written as one would without its data engine."""
    ids, labels = [tokenizer.bos], [NO_LABEL]

    def write(content: Any, learns: bool) -> None:
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            is_text = part["type"] == "text"
            more = tokenizer.encode(part["text"]) if is_text else [tokenizer.image] * (GRID[0] * GRID[1])
            ids.extend(more)
            labels.extend(more if learns and is_text else [NO_LABEL] * len(more))
        ids.append(tokenizer.end)
        labels.append(tokenizer.end if learns else NO_LABEL)

    if "content" in fields:
        write(fields["content"], learns=True)
        return ids, labels
    roles = {"system": tokenizer.system, "user": tokenizer.user, "assistant": tokenizer.assistant}
    for message in fields["messages"]:
        ids.append(roles[message["role"]])
        labels.append(NO_LABEL)
        write(message["content"], learns=message["role"] == "assistant")
    return ids, labels


def _row(waiting: list[tuple[Pixels, str, list[int]]]) -> PackedRow:
    return PackedRow(
        torch.tensor([number for _, _, ids in waiting for number in ids]),
        tuple(image for image, _, _ in waiting),
        tuple(name for _, name, _ in waiting),
        tuple(len(ids) for _, _, ids in waiting),
    )
