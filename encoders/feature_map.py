"""Feature maps (b w rows columns): which layers are asked for, and how maps of several layers or models become one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def as_layers(layer: object) -> tuple[int, ...]:
    """The layers of a setting `layer`, which is an int or a list of ints.

    Raises:
        ValueError: it is something else, an empty list, or names a layer twice.
    """
    given = list(layer) if isinstance(layer, list | tuple) else [layer]
    layers = tuple(one for one in given if isinstance(one, int) and not isinstance(one, bool))
    if not given or len(layers) < len(given):
        raise ValueError(f"layer must be an int (-1 is the last) or a list of ints, got {layer!r}")
    if len(set(layers)) < len(layers):
        raise ValueError(f"layer names a layer twice: {given}; give each once")
    return layers


def joined_grid(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The grid of `join_maps`: the most rows and the most columns of all."""
    return max(rows for rows, _ in grids), max(columns for _, columns in grids)


def join_maps(maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b w rows columns"]:
    """Concatenate maps of the same pictures along their width, in order.

    Coarser maps are resampled to the grid of the finest, bilinearly: each of its cells stays where it lies in the picture.
    """
    if len(maps) == 1:
        return maps[0]
    grid = joined_grid([(one.shape[2], one.shape[3]) for one in maps])
    return torch.cat(
        [
            one if tuple(one.shape[2:]) == grid else functional.interpolate(one, grid, mode="bilinear").to(one.dtype)
            for one in maps
        ],
        dim=1,
    )
