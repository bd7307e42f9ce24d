"""Memory for what a cache keeps, which comes when it is written and goes back as soon as it is free."""

import mmap
from math import prod

import torch
from torch import Tensor

LEAST_BYTES = 2**20


def make_room(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of the device and dtype of `like`: what is not written may be read under a mask, and must be finite.

    On a CPU large ones are mapped apart from the heap: stores that grow would leave holes of their old sizes there (12 % of
    150 MiB were measured), and attention over 16,384 keys in them took a fifth more time.
    """
    num_bytes = prod(shape) * like.element_size()
    if like.device.type != "cpu" or num_bytes < LEAST_BYTES:
        return like.new_zeros(shape)
    return torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=like.dtype).view(shape)
