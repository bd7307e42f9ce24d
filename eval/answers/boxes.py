"""Boxes in an answer, in any of the ways in which models write them.

There is no way to tell from the numbers which convention was meant, and choosing the one that fits the right box best
(as lmms-eval's refcoco_grounding does) looks at the answer key: so the convention is an argument, always.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

Convention = Literal["xyxy", "xywh", "0-1", "0-999", "0-1000", "square"]
CONVENTIONS = {
    "xyxy": "left, top, right, bottom in pixels of the picture as the model saw it",
    "xywh": "left, top, width, height in pixels, as COCO and RefCOCO store them",
    "0-1": "xyxy as shares of width and height",
    "0-999": "xyxy in thousandths, divided by 999 as in Qwen-VL's evaluation",
    "0-1000": "xyxy in thousandths (Qwen-VL's format as described, InternVL)",
    "square": "xyxy as shares of the picture's longer side, the picture centred in a square (LLaVA-1.5, Shikra)",
}
_SCALE = {"0-1": 1.0, "0-999": 999.0, "0-1000": 1000.0, "square": 1.0}
_N = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
# [1, 2, 3, 4], (1,2,3,4), [[1,2,3,4]]; (1,2),(3,4), [(1, 2), (3, 4)], with or without <box> or <|box_start|> around.
_BOX = re.compile(rf"[\[(]{_N},{_N},{_N},{_N}[\])]|[\[(]{_N},{_N}[\])]\s*,?\s*[\[(]{_N},{_N}[\])]")


def parse_boxes(
    response: str,
    convention: Convention,
    image_size: Sequence[float | int] | None = None,
    seen_size: Sequence[float | int] | None = None,
) -> list[list[float]] | None:
    """Every box in the answer as [left, top, right, bottom], in order; None if there is none.

    Args:
        response: what the model wrote; groups of four numbers in brackets, or two points in brackets.
        convention: what the numbers mean: one of `CONVENTIONS`.
        image_size: width and height of the picture, in pixels. With it boxes are in pixels of the picture; without it
            those of the relative conventions are shares of width and height, and "square" cannot be read.
        seen_size: xyxy and xywh: width and height of the picture as the model was shown it, if it was resized; the
            boxes are then scaled to `image_size`.

    Raises:
        ValueError: an unknown convention, or a size that is missing or not positive.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown box convention {convention!r}; known: {', '.join(CONVENTIONS)}")
    if convention == "square" and image_size is None:
        raise ValueError("boxes of a square-padded picture need image_size (width, height) to take the padding off")
    if seen_size is not None and (image_size is None or convention not in ("xyxy", "xywh")):
        raise ValueError(
            f"seen_size scales pixels to those of image_size; got convention {convention!r}, no image_size"
        )
    for name, size in (("image_size", image_size), ("seen_size", seen_size)):
        if size is not None and (len(size) != 2 or min(size) <= 0):
            raise ValueError(f"{name} must be a width and a height above 0, got {list(size)}")
    found = [[float(number) for number in match.groups() if number is not None] for match in _BOX.finditer(response)]
    found = [box for box in found if all(math.isfinite(number) for number in box)]
    return [_in_picture(box, convention, image_size, seen_size) for box in found] or None


def _in_picture(
    box: list[float],
    convention: Convention,
    image_size: Sequence[float | int] | None,
    seen_size: Sequence[float | int] | None,
) -> list[float]:
    if convention == "xywh":
        box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    if convention in ("xyxy", "xywh"):
        if seen_size is None or image_size is None:
            return box
        return _scale(box, image_size[0] / seen_size[0], image_size[1] / seen_size[1])
    box = [number / _SCALE[convention] for number in box]
    if image_size is None:
        return box
    width, height = image_size
    if convention != "square":
        return _scale(box, width, height)
    side = max(width, height)
    left, top = (side - width) / 2, (side - height) / 2
    return [box[0] * side - left, box[1] * side - top, box[2] * side - left, box[3] * side - top]


def _scale(box: list[float], across: float | int, down: float | int) -> list[float]:
    return [box[0] * across, box[1] * down, box[2] * across, box[3] * down]
