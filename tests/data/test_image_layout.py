import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.image import ImageLayout, ImageSpec
from data.image_layout import ImagePlan

SPEC = ImageSpec(size_px=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
SPECS = {
    "squash": replace(SPEC, fit="squash"),
    "letterbox": SPEC,
    "native": replace(SPEC, fit="native", max_pixels=48 * 96),
    "tiles": replace(SPEC, fit="tiles", max_tiles=4),
}


@dataclass(frozen=True)
class Shuffle:
    merge: int = 2
    row_end: bool = False
    crop_end: bool = False

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        return rows // self.merge, columns // self.merge


@dataclass(frozen=True)
class Line(Shuffle):
    merge: int = 1

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        return 1, 5


class Patches:
    """One vector for each square of 4 px."""

    def __init__(self, spec: ImageSpec, patch_px: int = 4) -> None:
        self.spec, self.patch_px = spec, patch_px

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_px, width // self.patch_px


def drawn_out(layout: ImageLayout, connector: Shuffle, height: int, width: int) -> list[tuple[str, int, int, int]]:
    """(what, time, row, column) of each slot, canvas by canvas, tile by tile, cell by cell."""
    slots: list[tuple[str, int, int, int]] = []
    time = 0
    for canvas in layout.spec.canvases(height, width):
        tile_height, tile_width = canvas.height // canvas.down, canvas.width // canvas.across
        rows, columns = connector.grid(tile_height // 4, tile_width // 4)
        for down in range(canvas.down):
            for across in range(canvas.across):
                for row in range(rows):
                    places = range(time + across * columns, time + (across + 1) * columns)
                    slots += [("patch", time, time + down * rows + row, place) for place in places]
                    if connector.row_end:
                        slots.append(("marker", time, time + down * rows + row, time + across * columns + columns))
                if connector.crop_end:
                    last_row = time + down * rows + rows - 1
                    slots.append(("marker", time, last_row, time + across * columns + columns + connector.row_end))
        latest = max(max(slot[2:]) for slot in slots)
        time = latest + 1
    return [*slots, ("what follows", time, time, time)]


def as_list(plan: ImagePlan) -> list[tuple[str, int, int, int]]:
    kinds = np.where(plan.is_marker, "marker", "patch").tolist()
    slots = [(kind, *place) for kind, place in zip(kinds, plan.positions.tolist(), strict=True)]
    return [*slots, ("what follows", plan.duration, plan.duration, plan.duration)]


connectors = st.builds(Shuffle, st.sampled_from((1, 2, 3, 4)), st.booleans(), st.booleans())


@pytest.mark.parametrize("fit", SPECS)
@settings(deadline=None)
@given(
    connector=connectors | st.builds(Line, st.just(1), st.booleans(), st.booleans()),
    height=st.integers(1, 400),
    width=st.integers(1, 400),
)
def test_a_plan_is_the_picture_drawn_out_cell_by_cell(fit: str, connector: Shuffle, height: int, width: int) -> None:
    layout = ImageLayout.from_encoder(Patches(SPECS[fit]), connector)
    plan = layout.plan(height, width)
    assert as_list(plan) == drawn_out(layout, connector, height, width)
    assert sum(plan.slots_per_crop) == plan.slots <= layout.most_slots
    for crop in plan.crops:
        assert connector.grid(*layout.encoder_grid(crop.height, crop.width)) == (crop.rows, crop.columns)


@pytest.mark.parametrize("fit", SPECS)
def test_the_most_slots_are_reached(fit: str) -> None:
    layout = ImageLayout.from_encoder(Patches(SPECS[fit]), Shuffle(2, row_end=True, crop_end=True))
    sizes = [(height, width) for height in (8, 48, 96, 192, 600) for width in (8, 48, 96, 192, 600)]
    assert max(layout.plan(*size).slots for size in sizes) == layout.most_slots


def test_tiles_go_on_with_each_others_rows_and_columns_behind_the_whole() -> None:
    layout = ImageLayout.from_encoder(Patches(SPECS["tiles"], patch_px=24))
    plan = layout.plan(48, 96)
    whole = [[0, row, column] for row in range(2) for column in range(2)]
    left = [[2, 2 + row, 2 + column] for row in range(2) for column in range(2)]
    right = [[2, 2 + row, 4 + column] for row in range(2) for column in range(2)]
    assert plan.positions.tolist() == whole + left + right
    assert plan.duration == 6
    assert layout.plan(48, 48).positions.tolist() == whole  # one tile: the whole picture is that tile


def test_a_layout_counts_the_slots_the_connector_leaves() -> None:
    class Encoder:
        spec = SPEC

        def grid(self, height: int, width: int) -> tuple[int, int]:
            return height // 8, width // 12

    layout = ImageLayout.from_encoder(Encoder(), Shuffle(2))
    assert (layout.rows, layout.columns, layout.slots) == (3, 2, 6)
    assert layout.fingerprint() == ImageLayout(SPEC, (3, 2)).fingerprint() != ImageLayout(SPEC, (2, 3)).fingerprint()


def test_whatever_changes_a_plan_changes_the_fingerprint() -> None:
    layouts = [
        ImageLayout.from_encoder(Patches(spec), connector)
        for spec in (
            *SPECS.values(),
            replace(SPECS["native"], max_pixels=48 * 48),
            replace(SPECS["tiles"], max_tiles=3),
        )
        for connector in (Shuffle(1), Shuffle(2), Line(), Line(row_end=True), Shuffle(2, True), Shuffle(2, False, True))
    ]
    prints = [layout.fingerprint() for layout in layouts]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_of_squares_is_that_of_earlier_versions() -> None:
    # Runs are resumed, and answers reused, by it.
    assert ImageLayout(SPEC, (3, 2)).fingerprint() == "73eff6a52408ff30"


def test_a_layout_can_be_pickled() -> None:
    layout = ImageLayout.from_encoder(Patches(SPECS["native"]), Shuffle(2, row_end=True))
    copy = pickle.loads(pickle.dumps(layout))
    assert as_list(copy.plan(100, 30)) == as_list(layout.plan(100, 30))
    assert copy.fingerprint() == layout.fingerprint()


class Fixed(Patches):
    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height != width:
            raise ValueError("Fixed takes squares alone")
        return super().grid(height, width)


class Constant(Patches):
    def grid(self, height: int, width: int) -> tuple[int, int]:
        return 12, 12


class Oblong(Patches):
    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // 4, width // 8


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (Fixed, r"fit: native makes pictures such as 4 x 1152 px, but Fixed takes squares alone; use fit: letterbox"),
        (Constant, r"Constant gives 12 x 12 vectors for 4 x 1152 px, where 1 x 288 are needed; use fit: letterbox"),
        (Oblong, r"Oblong gives 12 x 6 vectors for 48 x 48 px; use fit: letterbox"),
    ],
)
def test_native_is_refused_with_an_encoder_that_does_not_take_all_sizes(encoder: type[Patches], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageLayout.from_encoder(encoder(SPECS["native"]), Shuffle(1))
    ImageLayout.from_encoder(encoder(SPECS["tiles"]), Shuffle(1))  # tiles are squares


def test_a_budget_below_one_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_pixels is 60, less than one square of 8 x 8 px .* merge 2\); give more"):
        ImageLayout.from_encoder(Patches(replace(SPECS["native"], max_pixels=60)), Shuffle(2))


def test_a_side_that_is_no_multiple_of_the_patch_leaves_the_patch_as_it_is() -> None:
    spec = replace(SPECS["native"], size_px=384, max_pixels=384**2)
    layout = ImageLayout.from_encoder(Patches(spec, patch_px=14), Shuffle(1))
    assert layout.spec.multiple_px == 14
    assert layout.plan(384, 384).crops[0].height == 378
    assert layout.plan(28, 140).slots == 20


def test_planning_needs_no_torch() -> None:
    plan = ImageLayout.from_encoder(Patches(SPECS["native"]), Shuffle(2)).plan(300, 100)
    assert not any(isinstance(value, torch.Tensor) for value in vars(plan).values())
