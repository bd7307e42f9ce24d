"""Compose scenes of emoji with exact boxes, and plan which scenes there are.

In: recipes and pictures. Out: pixels and boxes. Composing uses whole numbers only, so that the same pixels come out on
every machine, whatever the image library.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from data.assets.draws import Draws, bucket

CANVAS_PX = 128
MAX_COUNT = 5
PLACES = {
    2: ("top left", "top right", "bottom left", "bottom right"),
    3: ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"),
}
# Things that are still told apart at 40 pixels; one of each family, no clock faces, no words that cover other concepts.
CATEGORIES = frozenset(("animals and nature", "food and drink", "travel and places", "activities", "objects"))
GENERIC = frozenset(
    [
        "bird",
        "bug",
        "building",
        "car",
        "cat",
        "dog",
        "fish",
        "flashlight",
        "hotel",
        "house",
        "monkey",
        "plant",
        "seedling",
    ]
)
NUM_POPULAR = 40
STRATEGIES = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Concept:
    """What a scene is made of: a concept and the styles it may be drawn in."""

    key: str
    label: str
    subcategory: str
    styles: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """One drawn thing: `name` is `STYLE/KEY`, `size_px` its longer side, `jitter` where in the cell (0-255)."""

    name: str
    cell: int
    size_px: int
    jitter: tuple[int, int]


@dataclass(frozen=True)
class Scene:
    """A recipe: `side` cells each way, and what lies in them."""

    side: int
    background: tuple[int, int, int]
    objects: tuple[Placed, ...]

    def to_json(self) -> dict[str, Any]:
        things = [[thing.name, thing.cell, thing.size_px, *thing.jitter] for thing in self.objects]
        return {"side": self.side, "background": list(self.background), "objects": things}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Scene":
        things = tuple(Placed(name, cell, size, (right, down)) for name, cell, size, right, down in fields["objects"])
        red, green, blue = fields["background"]
        return cls(fields["side"], (red, green, blue), things)


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Vocabulary:
    """The concepts that scenes are made of, and those of them that are shown most often."""

    concepts: tuple[Concept, ...]
    popular: tuple[Concept, ...]

    @classmethod
    def of(cls, concepts: Iterable[Concept]) -> "Vocabulary":
        """Choose the popular concepts by a hash of their keys, so that they are the same in every split."""
        known = tuple(concepts)
        ranked = sorted(known, key=lambda concept: bucket(f"popular/{concept.key}", 2**32))
        return cls(known, tuple(ranked[:NUM_POPULAR]))


def vocabulary(rows: Iterable[Mapping[str, Any]], part: str) -> Vocabulary:
    """Return the concepts fit for scenes that have pictures of `part` ("train", "val" or "test"), one of a family."""
    chosen: dict[str, Concept] = {}
    for row in rows:
        label, styles = row["label"], tuple(row[part])
        is_fit = row["headline"] and row["split"] == "train" and row["category"] in CATEGORIES
        is_plain = len(label.split()) <= 2 and label not in GENERIC and label.isascii()
        if is_fit and is_plain and row["family"] not in chosen:
            chosen[row["family"]] = Concept(row["key"], label, row["subcategory"], styles)
    return Vocabulary.of(concept for concept in chosen.values() if concept.styles)


def content(picture: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "h w 4"]:
    """Cut off the transparent margin, so that boxes are tight."""
    rows, columns = np.nonzero(picture[:, :, 3] >= 16)
    return picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def overlap(old: int, new: int) -> Float64[np.ndarray, "new old"]:
    """Return how much of each of `old` pixels each of `new` pixels covers, in units of 1 / new; rows sum to `old`.

    The numbers are whole; they are float64 for BLAS's sake, and exact up to 2**53 (we stay below 2**30).
    """
    starts, ends = np.arange(new)[:, None] * old, (np.arange(new)[:, None] + 1) * old
    low, high = np.arange(old)[None] * new, (np.arange(old)[None] + 1) * new
    return np.clip(np.minimum(ends, high) - np.maximum(starts, low), 0, None).astype(np.float64)


def compose(
    scene: Scene, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 4"]]
) -> tuple[UInt8[np.ndarray, "y x 3"], list[Box]]:
    """Draw a scene: area-averaged, by the alpha channel, each thing inside its cell.

    Args:
        scene: the recipe.
        pictures: `STYLE/KEY` -> RGBA pixels without margin.

    Returns: the canvas, and the box of each thing (x0, y0, x1, y1; x1 and y1 are just outside).
    """
    canvas = np.empty((CANVAS_PX, CANVAS_PX, 3), dtype=np.int64)
    canvas[:] = scene.background
    boxes = []
    for thing in scene.objects:
        picture = pictures[thing.name]
        height, width = picture.shape[:2]
        longer = max(height, width)
        new_height, new_width = (max(1, side * thing.size_px // longer) for side in (height, width))
        down, right = overlap(height, new_height), overlap(width, new_width)
        planes = picture.transpose(2, 0, 1).astype(np.float64)
        planes[:3] *= planes[3]
        *colours, alpha = (down @ planes @ right.T).astype(np.int64)
        row, column = divmod(thing.cell, scene.side)
        x0 = jittered(column, new_width, scene.side, thing.jitter[0])
        y0 = jittered(row, new_height, scene.side, thing.jitter[1])
        x1, y1 = x0 + new_width, y0 + new_height
        full = 255 * height * width
        under = canvas[y0:y1, x0:x1] * (full - alpha)[:, :, None]
        canvas[y0:y1, x0:x1] = (np.stack(colours, axis=-1) + under + full // 2) // full
        boxes.append((x0, y0, x1, y1))
    return canvas.astype(np.uint8), boxes


def jittered(cell: int, size: int, side: int, jitter: int) -> int:
    """Return where a thing of this size starts in its row or column of cells."""
    start, end = cell * CANVAS_PX // side, (cell + 1) * CANVAS_PX // side
    return start + (end - start - size) * jitter // 255


def background(draws: Draws) -> tuple[int, int, int]:
    """Return a plain colour: light eight times of ten, else dark, but not so dark that black things vanish."""
    low, span = (150, 106) if draws.below(10) < 8 else (40, 80)
    return (low + draws.below(span), low + draws.below(span), low + draws.below(span))


def place(draws: Draws, concept: Concept, cell: int, side: int, style: str | None = None) -> Placed:
    """Draw a concept's style, size and jitter; the longer side takes 85 to 100 % of the cell."""
    cell_px = CANVAS_PX // side
    size = cell_px - draws.below(cell_px * 15 // 100 + 1)
    name = f"{style or draws.choice(concept.styles)}/{concept.key}"
    return Placed(name, cell, size, (draws.below(256), draws.below(256)))


def clashes(label: str, others: Iterable[str]) -> bool:
    """Say whether a label shares a word with another one: `cat` is no fair negative beside `black cat`."""
    words = set(label.split())
    return any(words & set(other.split()) for other in others)
