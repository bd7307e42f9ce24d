from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.image import ImageSpec
from data.image_spec import native_grid, tile_grid

SPEC = ImageSpec(size_px=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
HALF = Fraction(1, 2)


def native_by_search(height: int, width: int, multiple_px: int, most: int) -> tuple[int, int]:
    """Try every scale at which a side is rounded to less, from the largest on, in exact fractions."""
    sides = Fraction(height, multiple_px), Fraction(width, multiple_px)
    rows, columns = (max(1, floor(side + HALF)) for side in sides)
    scales = sorted({(k + HALF) / side for side in sides for k in range(1, ceil(side) + 1)}, reverse=True)
    for scale in (scale for scale in scales if scale <= 1):
        if rows * columns <= most:
            break
        rows, columns = (max(1, ceil(side * scale - HALF)) for side in sides)  # right below that scale
    return rows, columns


sides = st.integers(1, 300)


@settings(deadline=None)
@given(height=sides, width=sides, multiple_px=st.integers(1, 40), most=st.integers(1, 60))
@example(height=64, width=64, multiple_px=16, most=15)
@example(height=1, width=300, multiple_px=16, most=4)
def test_the_native_grid_is_the_one_of_the_largest_scale_within_the_budget(
    height: int, width: int, multiple_px: int, most: int
) -> None:
    rows, columns = native_grid(height, width, multiple_px, most)
    assert rows * columns <= most
    assert (rows, columns) == native_by_search(height, width, multiple_px, most)
    assert native_grid(width, height, multiple_px, most) == (columns, rows)


@settings(deadline=None)
@given(height=sides, width=sides, multiple_px=st.integers(1, 40), most=st.integers(1, 60))
def test_no_side_is_wrong_by_more_than_half_a_multiple(height: int, width: int, multiple_px: int, most: int) -> None:
    grid = native_grid(height, width, multiple_px, most)
    lows, highs = [], [Fraction(1)]
    for cells, side in zip(grid, (height, width), strict=True):
        if cells > 1:  # one is the least there is, however thin the picture
            lows.append((cells - HALF) * multiple_px / side)
        highs.append((cells + HALF) * multiple_px / side)
    assert max(lows, default=0) <= min(highs)  # one scale, at most 1, explains both sides


def tiles_by_search(height: int, width: int, size_px: int, max_tiles: int) -> tuple[int, int]:
    """Count the picture's own pixels that each grid keeps; the smallest grid with nine tenths of the most."""
    kept = {}
    for tiles in range(1, max_tiles + 1):
        for down in range(1, tiles + 1):
            if tiles % down == 0:
                across = tiles // down
                scale = min(Fraction(down * size_px, height), Fraction(across * size_px, width), Fraction(1))
                kept[down, across] = float(scale * scale)
    best = max(kept.values())
    enough = [grid for grid in kept if kept[grid] >= 0.9 * best]
    fewest = min(down * across for down, across in enough)
    return max((grid for grid in enough if grid[0] * grid[1] == fewest), key=lambda grid: (kept[grid], -grid[0]))


@settings(deadline=None)
@given(height=sides, width=sides, size_px=st.integers(8, 64), max_tiles=st.integers(1, 9))
def test_tiles_are_the_fewest_that_keep_nearly_the_most(height: int, width: int, size_px: int, max_tiles: int) -> None:
    assert tile_grid(height, width, size_px, max_tiles) == tiles_by_search(height, width, size_px, max_tiles)


def test_tiles_follow_the_aspect_ratio() -> None:
    assert tile_grid(48, 48, 48, 4) == (1, 1)  # enough as it is
    assert tile_grid(20, 30, 48, 4) == (1, 1)
    assert tile_grid(50, 50, 48, 4) == (1, 1)  # a little is lost, not worth four tiles
    assert tile_grid(96, 96, 48, 4) == (2, 2)
    assert tile_grid(48, 190, 48, 4) == (1, 4)
    assert tile_grid(500, 120, 48, 4) == (4, 1)
    assert tile_grid(300, 200, 48, 6) == (3, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fit": "stretch"}, r"unknown fit 'stretch'.*squash, letterbox, native, tiles"),
        ({"max_pixels": 100}, "max_pixels is a setting of fit: native, but fit is letterbox"),
        ({"max_tiles": 4}, "max_tiles is a setting of fit: tiles, but fit is letterbox"),
        ({"fit": "native"}, r"fit: native needs max_pixels, .* such as 2304"),
        ({"fit": "tiles"}, "fit: tiles needs max_tiles"),
        ({"fit": "tiles", "max_tiles": 0}, "max_tiles must be at least 1, got 0"),
        ({"background": (0, 0, 256)}, r"0 to 255, got \(0, 0, 256\)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, object], words: str) -> None:
    if change.get("fit") == "stretch":
        with pytest.raises(ValueError, match=words):
            ImageSpec.__post_init__(_with_fit("stretch"))
        return
    with pytest.raises(ValueError, match=words):
        replace(SPEC, **change)  # type: ignore[arg-type]


def _with_fit(fit: str) -> ImageSpec:
    spec = replace(SPEC)
    object.__setattr__(spec, "fit", fit)  # as a config would: the type check of the tests stands before the constructor
    return spec


def test_native_canvases_need_the_layouts_multiple() -> None:
    with pytest.raises(ValueError, match=r"multiple_px; take the spec of an ImageLayout"):
        replace(SPEC, fit="native", max_pixels=4096).canvases(10, 10)


def test_what_is_not_used_changes_neither_the_repr_nor_the_key_of_features() -> None:
    assert repr(SPEC) == (
        "ImageSpec(size_px=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation='bicubic', fit='letterbox', "
        "background=(255, 255, 255))"
    )
    native = replace(SPEC, fit="native", max_pixels=4096)
    assert repr(native).endswith("max_pixels=4096)")
    assert repr(native) != repr(replace(native, multiple_px=16))
