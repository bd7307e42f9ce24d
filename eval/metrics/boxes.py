"""Overlap of boxes."""

from collections.abc import Sequence


def box_iou(a: Sequence[float | int], b: Sequence[float | int]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), in any one unit.

    Edges have no width: pixels are points of a plane, not cells (the notebook of REFER adds 1 to each side). Two boxes
    without area share nothing: 0.

    Raises:
        ValueError: a box is not four numbers.
    """
    if len(a) != 4 or len(b) != 4:
        raise ValueError(f"a box is four numbers (left, top, right, bottom), got {list(a)} and {list(b)}")
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / union) if shared else 0.0
