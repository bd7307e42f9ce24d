"""How many slots a picture takes in the sequence, and where each of them lies.

In: a picture's size in pixels, or its stored bytes. Out: an `ImagePlan`, by arithmetic alone. A plan lists the crops that the
encoder sees, one after another; each is rows of vectors, a marker after each row and one after the crop where the
connector has them. Positions are (time, row, column): all slots of a canvas stand at one time; its tiles go on with each
other's rows and columns; a canvas begins where the one before it ends.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from data.image_header import check_header, upright_size
from data.image_spec import Canvas, ImageSpec


@runtime_checkable
class ConnectorLayout(Protocol):
    """What a connector does to an encoder's grid, and which learned markers it adds."""

    @property
    def merge(self) -> int:
        """Side of the square of neighbouring patches that becomes one vector."""

    @property
    def row_end(self) -> bool:
        """True where a marker follows each row of vectors."""

    @property
    def crop_end(self) -> bool:
        """True where a marker follows each crop."""

    def grid(self, rows: int, columns: int) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Crop:
    """One picture as the encoder sees it: all of a stored one, or a tile of it."""

    height: int  # pixels
    width: int
    rows: int  # of vectors, as the backbone sees them
    columns: int
    canvas: int  # on which it lies, counted from 0
    first_row: int  # its place there
    first_column: int
    slots: int  # its vectors and markers


@dataclass(frozen=True)
class ImagePlan:
    """All slots of one stored picture, in their order."""

    crops: tuple[Crop, ...]
    positions: Int64[np.ndarray, "slots 3"]  # time, row, column; from the first slot's time on
    is_marker: Bool[np.ndarray, " slots"]  # True where no vector of the picture stands
    duration: int  # by how much time goes on over the picture

    @property
    def slots(self) -> int:
        return len(self.positions)

    @property
    def slots_per_crop(self) -> tuple[int, ...]:
        return tuple(crop.slots for crop in self.crops)


class ImageLayout:
    """Says of each picture what it takes in the sequence; known before any weight exists, and can be pickled.

    Args:
        spec: how pictures are prepared; for `native` with its `multiple_px`.
        grid: (rows, columns) of the encoder's vectors for a square of the spec's `size_px`.
        connector: what becomes of that grid; None keeps it.

    Raises:
        ValueError: the grid does not suit the connector, or a picture would get no slot.
    """

    def __init__(self, spec: ImageSpec, grid: tuple[int, int], connector: ConnectorLayout | None = None) -> None:
        self.spec, self._grid, self._connector = spec, grid, connector
        self.has_row_end = connector is not None and connector.row_end
        self.has_crop_end = connector is not None and connector.crop_end
        # Every picture of a square is laid out like any other.
        self._only = self._planned(1, 1) if spec.fit in ("squash", "letterbox") else None
        self.reference = self.plan(spec.size_px, spec.size_px)

    @classmethod
    def from_encoder(cls, encoder: Any, connector: ConnectorLayout | None = None) -> "ImageLayout":
        """The layout of an encoder that has `spec` and `grid(height, width)`.

        Raises:
            ValueError: the encoder does not take pictures of the sizes that its spec's `fit` makes.
        """
        spec: ImageSpec = encoder.spec
        rows, columns = encoder.grid(spec.size_px, spec.size_px)
        if spec.fit == "native":
            merge = 1 if connector is None else connector.merge
            spec = replace(spec, multiple_px=_patch_px(encoder, int(rows), int(columns)) * merge)
            _check_native(encoder, spec, merge)
        return cls(spec, (int(rows), int(columns)), connector)

    @property
    def rows(self) -> int:
        """Rows of vectors of the reference picture, a square of the spec's `size_px`."""
        return self.reference.crops[0].rows

    @property
    def columns(self) -> int:
        return self.reference.crops[0].columns

    @property
    def slots(self) -> int:
        """Slots of a picture, markers included; where they differ, those of the reference picture."""
        return self.reference.slots

    @property
    def most_slots(self) -> int:
        """Slots of the picture that takes the most."""
        spec = self.spec
        if spec.multiple_px is not None and spec.max_pixels is not None:
            return self.plan(spec.max_pixels // spec.multiple_px**2 * spec.multiple_px, spec.multiple_px).slots
        return self.plan(spec.size_px * (spec.max_tiles or 1), spec.size_px).slots

    def plan(self, height: int, width: int) -> ImagePlan:
        """The slots of a picture of that many pixels, as people see it."""
        return self._only or self._planned(height, width)

    def plan_stored(self, data: bytes) -> ImagePlan:
        """The slots of a stored picture.

        Raises:
            BadRecord: its header is bad, or it is too large.
        """
        if self._only is not None:
            check_header(data)
            return self._only
        width, height = upright_size(data)
        return self._planned(height, width)

    def encoder_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the encoder's own vectors for a crop of that size, by arithmetic."""
        if self.spec.multiple_px is None:
            return self._grid
        patch_px = self.spec.multiple_px // (1 if self._connector is None else self._connector.merge)
        return height // patch_px, width // patch_px

    def fingerprint(self) -> str:
        """Changes with everything that changes the packing or the pixels."""
        parts: tuple[object, ...] = (sorted(self.spec.settings().items()), self.rows, self.columns)
        if self._only is None or self.has_row_end or self.has_crop_end:
            # What tells the layouts of other sizes apart: two more crops, and the markers.
            probe = (
                None if self._connector is None else self._connector.grid(*(k * self._connector.merge for k in (2, 3)))
            )
            parts += (self._grid, probe, self.has_row_end, self.has_crop_end)
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def _planned(self, height: int, width: int) -> ImagePlan:
        crops: list[Crop] = []
        positions: list[Int64[np.ndarray, "k 3"]] = []
        is_marker: list[Bool[np.ndarray, " k"]] = []
        time = 0
        for number, canvas in enumerate(self.spec.canvases(height, width)):
            own = self._crops(canvas, number)
            places = [self._places(crop) for crop in own]
            positions += [time + place for place, _ in places]
            is_marker += [marker for _, marker in places]
            time = int(max(place.max() for place in positions)) + 1
            crops += own
        return ImagePlan(tuple(crops), np.concatenate(positions), np.concatenate(is_marker), time)

    def _crops(self, canvas: Canvas, number: int) -> list[Crop]:
        height, width = canvas.height // canvas.down, canvas.width // canvas.across
        grid = self.encoder_grid(height, width)
        rows, columns = grid if self._connector is None else self._connector.grid(*grid)
        if rows < 1 or columns < 1:
            raise ValueError(f"a picture needs at least one slot, got {rows} x {columns} from the grid {grid}")
        slots = rows * (columns + self.has_row_end) + self.has_crop_end
        return [
            Crop(
                height,
                width,
                rows,
                columns,
                number,
                tile // canvas.across * rows,
                tile % canvas.across * columns,
                slots,
            )
            for tile in range(canvas.down * canvas.across)
        ]

    def _places(self, crop: Crop) -> tuple[Int64[np.ndarray, "k 3"], Bool[np.ndarray, " k"]]:
        """(0, row, column) of each slot of a crop, and which are markers: those stand behind the last column of their row."""
        rows, columns = np.divmod(
            np.arange(crop.rows * (crop.columns + self.has_row_end)), crop.columns + self.has_row_end
        )
        if self.has_crop_end:
            rows = np.append(rows, crop.rows - 1)
            columns = np.append(columns, crop.columns + self.has_row_end)
        places = np.stack([np.zeros_like(rows), crop.first_row + rows, crop.first_column + columns], axis=1)
        return places, columns >= crop.columns


def _patch_px(encoder: Any, rows: int, columns: int) -> int:
    """The side of the square of pixels that becomes one vector."""
    size = encoder.spec.size_px
    # Where the side is no multiple of it, patches that do not fit are cut off, as in SigLIP's 384 px of 27 patches of 14.
    patch_px = size // rows
    if rows != columns or size // patch_px != rows:
        raise ValueError(
            f"fit: native needs an encoder with one vector for each square of so many pixels, but {type(encoder).__name__} "
            f"gives {rows} x {columns} vectors for {size} x {size} px; use fit: letterbox, squash or tiles"
        )
    return patch_px


def _check_native(encoder: Any, spec: ImageSpec, merge: int) -> None:
    """Ask the encoder for the grids of the flattest and the tallest picture that can come."""
    assert spec.multiple_px is not None
    assert spec.max_pixels is not None
    most = spec.max_pixels // spec.multiple_px**2
    if most < 1:
        raise ValueError(
            f"max_pixels is {spec.max_pixels}, less than one square of {spec.multiple_px} x {spec.multiple_px} px (the encoder's "
            f"patch times the connector's merge {merge}); give more, such as {256 * spec.multiple_px**2}"
        )
    other = "use fit: letterbox, squash or tiles, or an encoder that takes pictures of any size"
    for down, across in ((1, most), (most, 1)):
        height, width = down * spec.multiple_px, across * spec.multiple_px
        try:
            grid = tuple(encoder.grid(height, width))
        except ValueError as error:
            raise ValueError(
                f"fit: native makes pictures such as {height} x {width} px, but {error}; {other}"
            ) from error
        if grid != (down * merge, across * merge):
            raise ValueError(
                f"fit: native needs an encoder whose grid grows with the picture, but {type(encoder).__name__} gives "
                f"{grid[0]} x {grid[1]} vectors for {height} x {width} px, where {down * merge} x {across * merge} are needed; {other}"
            )
