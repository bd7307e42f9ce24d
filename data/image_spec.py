"""How an encoder wants its pictures, and the flat canvases that one of a given size is drawn on.

In: the height and width of a picture. Out: canvases in pixels, before anything is decoded. Four ways to fit a picture:
`squash` and `letterbox` make one square; `native` keeps the aspect ratio and most of the size; `tiles` cuts a large picture
into squares and puts a small one of the whole before them. Source of the choice of tiles: LLaVA-NeXT's grids, which keep the
most of a picture's own pixels (https://llava-vl.github.io/blog/2024-01-30-llava-next).
"""

from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Fit = Literal["squash", "letterbox", "native", "tiles"]
ENOUGH = 0.9  # of the most pixels that any grid of tiles keeps; a larger grid that adds less is not worth its tiles


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageSpec:
    """How pictures are prepared: fitted to a size, then normalised by `mean` and `std` of values in [0, 1]."""

    size_px: int  # side of the square, of a tile; for `native` of the picture that stands for all where one is needed
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fit: Fit = "letterbox"  # letterbox keeps the aspect ratio and fills with the background
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int | None = None  # native: at most so many, whatever the aspect ratio
    multiple_px: int | None = None  # native: of both sides; made from the encoder's patch and the connector's merge
    max_tiles: int | None = None  # tiles: at most so many squares, beside the one of the whole picture

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise ValueError(f"unknown fit {self.fit!r} of pictures; known: {', '.join(get_args(Fit))}")
        if self.size_px < 1:
            raise ValueError(f"size_px is the side of the square in pixels and must be at least 1, got {self.size_px}")
        if min(self.std) <= 0:
            raise ValueError(f"std divides the pixels and must be above 0, got {self.std}")
        if not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"background is a colour of three values from 0 to 255, got {self.background}")
        for name, fit in (("max_pixels", "native"), ("multiple_px", "native"), ("max_tiles", "tiles")):
            value = getattr(self, name)
            if value is not None and self.fit != fit:
                raise ValueError(f"{name} is a setting of fit: {fit}, but fit is {self.fit}; leave one of them out")
            if value is None and self.fit == fit and name != "multiple_px":
                raise ValueError(f"fit: {fit} needs {name}, {self._meaning(name)}")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def _meaning(self, name: str) -> str:
        if name == "max_pixels":
            return f"the most pixels of a picture, such as {self.size_px**2} (its square of {self.size_px} px)"
        return f"the most squares of {self.size_px} px that a picture is cut into, such as 4"

    def __repr__(self) -> str:
        # Part of the key of cached features and of a run's data: a setting that is not used must not change it.
        return f"ImageSpec({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def settings(self) -> dict[str, object]:
        """Every setting that is in use."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def canvases(self, height: int, width: int) -> "tuple[Canvas, ...]":
        """What a picture of that size is drawn on, the small one of the whole picture first.

        Raises:
            ValueError: native, and `multiple_px` is not known.
        """
        square = Canvas(self.size_px, self.size_px, fills=self.fit == "squash")
        if self.fit == "native":
            if self.multiple_px is None or self.max_pixels is None:
                raise ValueError("fit: native needs multiple_px; take the spec of an ImageLayout, which knows it")
            rows, columns = native_grid(height, width, self.multiple_px, self.max_pixels // self.multiple_px**2)
            return (Canvas(rows * self.multiple_px, columns * self.multiple_px, fills=True),)
        if self.fit == "tiles":
            assert self.max_tiles is not None
            down, across = tile_grid(height, width, self.size_px, self.max_tiles)
            if down * across > 1:
                return square, Canvas(down * self.size_px, across * self.size_px, fills=False, down=down, across=across)
        return (square,)

    def normalise(self, image: UInt8[Tensor, "*i 3 H W"]) -> Float[Tensor, "*i 3 H W"]:
        """Pixels as the encoder takes them, on the picture's own device."""
        # Filled there, not copied from here: a copy would wait for the device.
        mean, std = (
            torch.stack([torch.full((1, 1), value, device=image.device) for value in values])
            for values in (self.mean, self.std)
        )
        # Plane by plane, as models were measured: prepared pixels lie colour beside colour.
        return (image.to(torch.float32, memory_format=torch.contiguous_format) / 255 - mean) / std


@dataclass(frozen=True)
class Canvas:
    """A flat surface with the whole picture on it, that is cut into equal crops."""

    height: int  # pixels
    width: int
    fills: bool  # True where the picture covers all of it; else it keeps its aspect ratio in the middle
    down: int = 1  # crops
    across: int = 1


def native_grid(height: int, width: int, multiple_px: int, most: int) -> tuple[int, int]:
    """Rows and columns of squares of `multiple_px` that a picture takes in its own aspect ratio, at most `most` of them.

    The picture is scaled down until both sides, each rounded to the nearest multiple (one at least), fit the budget. So no
    side is wrong by more than half a multiple, and a picture that fits as it is keeps its size but for that rounding.
    """
    rows, columns = (max(1, (2 * side + multiple_px) // (2 * multiple_px)) for side in (height, width))
    while rows * columns > most:
        # The scales at which a side would be rounded down once more, times height * width: the larger comes first.
        next_row = (2 * rows - 1) * width if rows > 1 else 0
        next_column = (2 * columns - 1) * height if columns > 1 else 0
        rows -= next_row >= next_column
        columns -= next_column >= next_row
    return rows, columns


def tile_grid(height: int, width: int, size_px: int, max_tiles: int) -> tuple[int, int]:
    """How many squares down and across: the fewest that keep nearly the most of the picture's own pixels."""
    kept = {}
    for down in range(1, max_tiles + 1):
        for across in range(1, max_tiles // down + 1):
            scale = min(1.0, down * size_px / height, across * size_px / width)
            kept[down, across] = scale * scale
    enough = ENOUGH * max(kept.values())
    return min((grid for grid in kept if kept[grid] >= enough), key=lambda grid: (grid[0] * grid[1], -kept[grid], grid))
