"""Memory for what a cache keeps.

On a CPU the whole room is reserved at once and taken page by page as it is written, so that nothing is ever moved and nothing is
taken for tokens that do not come. It is mapped apart from the heap: attention over 16,384 keys takes a fifth less time there.
A GPU's memory is taken when it is asked for; there room grows with the sequences.
"""

import mmap
from math import prod

import torch
from torch import Tensor

LEAST_BYTES = 2**20  # smaller rooms come from the heap
GROWTH = 64  # tokens by which room grows at least, where it does; a 32nd of what there is if that is more


def comes_when_written(device: torch.device) -> bool:
    """Whether room that is reserved and not used takes no memory."""
    return device.type == "cpu"


def room_for(length: int, capacity: int, max_length: int, device: torch.device) -> int:
    """How many tokens a sequence should have room for, if it is to hold `length` and has room for `capacity`."""
    if length <= capacity:
        return capacity
    if comes_when_written(device):
        return max_length
    step = max(GROWTH, capacity // 32)
    return min(max_length, -(-length // step) * step)


def make_room(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of the device and dtype of `like`: what is not written may be read under a mask, and must be finite."""
    num_bytes = prod(shape) * like.element_size()
    if not comes_when_written(like.device) or num_bytes < LEAST_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return like.new_zeros(shape)
    # Private, or a forked process would write into it; without a claim on memory where Python knows the flag (3.13).
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        room = mmap.mmap(-1, num_bytes, flags=flags)
    except OSError as error:
        raise ValueError(
            f"the cache of one layer needs {num_bytes / 2**30:.1f} GiB of room for {shape[0]} sequences of up to {shape[2]} "
            f"tokens, and the system does not give it ({error.strerror}); lower the token budget, or answer fewer at once"
        ) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # With huge pages a token would take 2 MiB for each row, head and layer.
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(room, dtype=like.dtype).view(shape)
