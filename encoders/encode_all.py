"""Run many pictures through a frozen encoder: decode ahead in threads, encode in batches, skip bad pictures."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from data.sample import BadRecord


@dataclass(frozen=True)
class EncodedBatch:
    """What became of one batch of pictures."""

    vectors: dict[str, Tensor]  # (p w) by feature key
    grids: dict[str, tuple[int, int]]
    skipped: dict[str, str]  # why, by feature key


def encode_all(
    encoder: Any, pictures: Iterable[tuple[str, Any]], prepare: Callable[[Any], Tensor], batch_size: int
) -> Iterator[EncodedBatch]:
    """Encode pictures in order, without gradients, on the encoder's device.

    Args:
        encoder: a VisionEncoder in eval().
        pictures: (feature key, picture) pairs.
        prepare: makes the UInt8 image (3 H W) of one picture; runs in threads; may raise BadRecord.
        batch_size: pictures encoded together.
    """
    device = next(encoder.parameters(), torch.empty(0)).device
    with ThreadPoolExecutor(max_workers=2) as pool:
        prepared = _ahead(pool, prepare, pictures, 2 * batch_size)
        while chunk := list(islice(prepared, batch_size)):
            images: dict[str, Tensor] = {}
            skipped: dict[str, str] = {}
            for key, future in chunk:
                try:
                    images[key] = future.result()
                except BadRecord as fault:
                    skipped[key] = str(fault)
            with torch.inference_mode():
                features = encoder.encode([encoder.spec.normalise(image.to(device)) for image in images.values()])
            grids = [(rows, columns) for rows, columns in features.grids.tolist()]
            yield EncodedBatch(
                dict(zip(images, features.split(), strict=True)), dict(zip(images, grids, strict=True)), skipped
            )


def _ahead(
    pool: ThreadPoolExecutor, prepare: Callable[[Any], Tensor], pictures: Iterable[tuple[str, Any]], depth: int
) -> Iterator[tuple[str, Future[Tensor]]]:
    """Keep `depth` pictures in preparation while the encoder works, and no more: the pixels of all would not fit."""
    waiting: deque[tuple[str, Future[Tensor]]] = deque()
    for key, picture in pictures:
        waiting.append((key, pool.submit(prepare, picture)))
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting
