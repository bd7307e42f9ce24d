"""Run many pictures through a frozen encoder: prepare and encode in threads, batch by batch, and skip bad pictures."""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from data.sample import BadRecord

MAX_WORKERS = 16  # more would wait for one another in Python


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

    Each thread takes a batch from the stored pictures to the vectors. On a CPU it does so with its own share of the cores:
    when one encoder ran on all of them, preparing got in its way, and for each operation all cores waited for the last.

    Args:
        encoder: a VisionEncoder in eval().
        pictures: (feature key, picture) pairs.
        prepare: makes the UInt8 image (3 H W) of one picture; runs in threads; may raise BadRecord.
        batch_size: pictures encoded together.
    """
    device = next(encoder.parameters(), torch.empty(0)).device
    num_threads = torch.get_num_threads()
    num_workers = min(MAX_WORKERS, num_threads)
    idle: SimpleQueue[Any] = SimpleQueue()
    for _ in range(num_workers if device.type == "cpu" else 1):  # one at a time on a GPU: its memory is for one batch
        idle.put(_with_shared_weights(encoder))

    def encode(chunk: list[tuple[str, Any]]) -> EncodedBatch:
        images: dict[str, Tensor] = {}
        skipped: dict[str, str] = {}
        for key, picture in chunk:
            try:
                images[key] = prepare(picture)
            except BadRecord as fault:
                skipped[key] = str(fault)
        own = idle.get()
        try:
            with torch.inference_mode():
                features = own.encode([own.spec.normalise(image.to(device)) for image in images.values()])
        finally:
            idle.put(own)
        grids = [(rows, columns) for rows, columns in features.grids.tolist()]
        return EncodedBatch(
            dict(zip(images, features.split(), strict=True)), dict(zip(images, grids, strict=True)), skipped
        )

    torch.set_num_threads(max(1, num_threads // num_workers))  # of each thread made from here on
    try:
        with ThreadPoolExecutor(num_workers) as pool:
            yield from _ahead(pool, encode, pictures, batch_size, num_workers)
    finally:
        torch.set_num_threads(num_threads)


def _with_shared_weights(encoder: nn.Module) -> Any:
    """A copy for one thread: what an encoder keeps in itself during a call is its own, its weights are those of all."""
    tensors = itertools.chain(encoder.parameters(), encoder.buffers())
    return copy.deepcopy(encoder, {id(tensor): tensor for tensor in tensors})


def _ahead(
    pool: ThreadPoolExecutor,
    encode: Callable[[list[tuple[str, Any]]], EncodedBatch],
    pictures: Iterable[tuple[str, Any]],
    batch_size: int,
    num_workers: int,
) -> Iterator[EncodedBatch]:
    """Keep each worker busy with one batch more in waiting, and no more: the vectors of all would not fit."""
    waiting: deque[Future[EncodedBatch]] = deque()
    pairs = iter(pictures)
    try:
        while chunk := list(islice(pairs, batch_size)):
            waiting.append(pool.submit(encode, chunk))
            if len(waiting) > num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after an error or an interrupt the batches in waiting are not begun
        for future in waiting:
            future.cancel()
