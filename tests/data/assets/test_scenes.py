"""Scenes are drawn exactly: by alpha, inside their cells, with tight boxes."""

import numpy as np
import pytest

from data.assets.draws import Draws
from data.assets.plan import plan_count, plan_objects
from data.assets.scenes import (
    CANVAS_PX,
    Concept,
    Placed,
    Scene,
    Vocabulary,
    clashes,
    compose,
    content,
    overlap,
    vocabulary,
)

KNOWN = Vocabulary.of(
    Concept(f"{i:x}", f"{word} {i}", f"kind {i % 4}", ("google", "fluent"))
    for i, word in enumerate(f"word{i}" for i in range(60))
)


def random_picture(seed: int, height: int, width: int) -> np.ndarray:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    picture[[0, -1], :, 3] = 255
    return picture


def compose_by_repetition(picture: np.ndarray, height: int, width: int, under: tuple[int, int, int]) -> np.ndarray:
    """Blow every pixel up so that old and new pixels both are whole blocks, blend each, then average."""
    big = picture.repeat(height, axis=0).repeat(width, axis=1).astype(np.float64)
    alpha = big[:, :, 3:] / 255
    blended = big[:, :, :3] * alpha + np.array(under) * (1 - alpha)
    old_height, old_width = picture.shape[:2]
    return blended.reshape(height, old_height, width, old_width, 3).mean(axis=(1, 3))


def test_composing_equals_blending_and_averaging_by_hand() -> None:
    picture = random_picture(0, 20, 30)
    scene = Scene(3, (200, 10, 90), (Placed("a", 4, 24, (128, 0)),))
    canvas, [(x0, y0, x1, y1)] = compose(scene, {"a": picture})
    assert (x1 - x0, y1 - y0) == (24, 16)
    slow = compose_by_repetition(picture, 16, 24, (200, 10, 90))
    assert np.abs(canvas[y0:y1, x0:x1] - slow).max() <= 0.5 + 1e-6  # rounding to whole colours alone


def test_white_parts_stay_white_and_transparent_ones_show_the_background() -> None:
    picture = np.full((40, 40, 4), 255, dtype=np.uint8)
    picture[10:30, 10:30, 3] = 0
    canvas, [(x0, y0, _, _)] = compose(Scene(2, (0, 0, 255), (Placed("a", 0, 60, (0, 0)),)), {"a": picture})
    assert canvas[y0 + 2, x0 + 2].tolist() == [255, 255, 255]
    assert canvas[y0 + 30, x0 + 30].tolist() == [0, 0, 255]


def test_nothing_is_drawn_outside_the_boxes() -> None:
    for index in range(20):
        plan = plan_objects("test", index, KNOWN)
        pictures = {thing.name: random_picture(index, 40 + index, 64) for thing in plan.scene.objects}
        canvas, boxes = compose(plan.scene, pictures)
        for x0, y0, x1, y1 in boxes:
            canvas[y0:y1, x0:x1] = plan.scene.background
        assert (canvas == np.array(plan.scene.background, dtype=np.uint8)).all()


@pytest.mark.parametrize("make", [plan_objects, plan_count])
def test_boxes_lie_on_the_canvas_and_apart(make: type) -> None:
    for index in range(40):
        plan = make("test", index, KNOWN)
        pictures = {thing.name: random_picture(index, 64, 20 + index) for thing in plan.scene.objects}
        covered = np.zeros((CANVAS_PX, CANVAS_PX), dtype=int)
        for x0, y0, x1, y1 in compose(plan.scene, pictures)[1]:
            assert 0 <= x0 < x1 <= CANVAS_PX
            assert 0 <= y0 < y1 <= CANVAS_PX
            covered[y0:y1, x0:x1] += 1
        assert covered.max() == 1


def test_a_recipe_survives_json() -> None:
    scene = plan_count("test", 3, KNOWN).scene
    assert Scene.from_json(scene.to_json()) == scene


def test_margins_are_cut_off() -> None:
    picture = np.zeros((10, 10, 4), dtype=np.uint8)
    picture[2:5, 3:9, 3] = 255
    assert content(picture).shape == (3, 6, 4)


@pytest.mark.parametrize(("old", "new"), [(64, 41), (10, 10), (7, 20)])
def test_every_pixel_is_shared_out_whole(old: int, new: int) -> None:
    weights = overlap(old, new)
    assert (weights.sum(axis=1) == old).all()
    assert (weights.sum(axis=0) == new).all()


def test_labels_that_share_a_word_clash() -> None:
    assert clashes("cat", ["dog", "black cat"])
    assert not clashes("cat", ["dog", "caterpillar"])


def test_the_vocabulary_has_one_concept_of_a_family_and_none_held_out() -> None:
    row = {
        "headline": True, "split": "train", "category": "objects", "subcategory": "tool", "train": ["google"]
    }  # fmt: skip
    rows = [
        {**row, "key": "1", "label": "hammer", "family": "hammer"},
        {**row, "key": "2", "label": "big hammer", "family": "hammer"},
        {**row, "key": "3", "label": "saw", "family": "saw", "split": "held-out"},
        {**row, "key": "4", "label": "axe", "family": "axe", "train": []},
        {**row, "key": "5", "label": "flag", "family": "flag", "headline": False},
    ]
    assert [concept.key for concept in vocabulary(rows, "train").concepts] == ["1"]


def test_plans_depend_on_the_name_alone() -> None:
    assert plan_objects("a", 5, KNOWN) == plan_objects("a", 5, KNOWN)
    assert plan_objects("a", 5, KNOWN) != plan_objects("b", 5, KNOWN)
    assert Draws("a").below(10**6) != Draws("b").below(10**6)
