"""The place of a process among those that read data of their own.

In: a trainer, or none. Out: (rank, world), and how ranks exchange what they know.
"""

from collections.abc import Callable
from typing import Any

from torch import distributed


def place_among_ranks(trainer: Any) -> tuple[int, int]:
    """(rank, world) of a trainer's process; without a trainer that of torch.distributed, else (0, 1)."""
    place = getattr(getattr(trainer, "strategy", None), "distributed_sampler_kwargs", None)
    if place:  # ranks of one tensor-parallel group read the same data, and only the strategy knows the groups
        return place["rank"], place["num_replicas"]
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def exchange_of(rank: int, world: int) -> Callable[[Any], list[Any]] | None:
    """A function that gives the values of all ranks, by rank, and must be called on every one; None where there is no group."""
    if world == 1 or not (distributed.is_available() and distributed.is_initialized()):
        return None

    def exchange(value: Any) -> list[Any]:
        everyone: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(everyone, (rank, value))
        return [value for _, value in sorted(dict(everyone).items())]

    return exchange
