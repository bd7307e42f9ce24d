"""What ranks must agree on: sums over them, and seeds that depend on the rank."""

import hashlib

import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(value: Tensor) -> Tensor:
    """The sum over ranks, without gradient; the value itself when there is one rank."""
    if num_ranks() > 1:
        dist.all_reduce(value)
    return value


def step_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """A seed for the draws of one micro-batch on one rank; neighbours share nothing."""
    digest = hashlib.blake2b(f"{seed}/{step}/{micro_batch}/{rank}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
