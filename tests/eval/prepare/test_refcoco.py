import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from eval.task import find_tasks
from eval.tasks.grounding import refcoco

NAMES = ("COCO_train2014_000000581857.jpg", "COCO_train2014_000000000007.jpg")


@pytest.fixture
def parquet(bench: Any, picture: Callable[..., bytes]) -> Any:
    """Two pictures of 20 x 6 and 100 x 6; the first box has two expressions."""
    rows = [
        {
            "question_id": "1",
            "image": {"bytes": picture(12), "path": None},
            "question": "",
            "answer": ["the lady", "left"],
        }
        | {"bbox": [0.0, 0.0, 10.0, 6.0], "file_name": "COCO_train2014_000000581857_16.jpg", "iscrowd": 0},
        {"question_id": "2", "image": {"bytes": picture(92), "path": None}, "question": "", "answer": ["dog"]}
        | {"bbox": [50.0, 3.0, 50.0, 3.0], "file_name": "COCO_train2014_000000000007_3.jpg", "iscrowd": 0},
    ]
    bench.parquet("data/testA-00000-of-00001.parquet", rows)
    return bench


def test_an_overlap_of_half_is_right_and_the_convention_is_named(
    parquet: Any, shown: Callable[..., str], picture: Callable[..., bytes]
) -> None:
    found = parquet.prepare("refcoco/testA")
    assert list(found) == ["0-0", "0-1", "1-0"]
    assert (found["1-0"].box, found["1-0"].group) == ((50, 3, 100, 6), "COCO_train2014_000000000007")
    # IoU: the whole picture of 20 x 6 against its left half: 0.5. A box with nothing shared: 0. No box: unparsed.
    said = {"0-0": "[0, 0, 1000, 1000]", "0-1": "It is at (501,0),(1000,1000).", "1-0": "lower right"}
    result, model = parquet.ask("refcoco/testA", said)
    assert result.score == pytest.approx(1 / 3)
    assert result.unparsed == pytest.approx(1 / 3)
    assert result.details["box_convention"].startswith("0-1000: xyxy in thousandths")
    assert result.details["mean_iou"] == pytest.approx(0.5 / 3)
    assert result.details["accuracy"] == result.score
    assert result.chance == pytest.approx(2 / 3)  # the whole picture is right for both expressions of the first box
    asked = "in thousandths of the width and height of the picture: the lady"
    assert shown(model.asked["0-0"]).endswith(asked)


def test_the_convention_is_an_agreement_and_never_the_one_that_fits(
    parquet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.prepare("refcoco/testA")
    # In a square of 20 the picture of 20 x 6 lies between 7 and 13: its left half is 0 to 0.5 and 0.35 to 0.65.
    square = {"0-0": "[0, 0.35, 0.5, 0.65]", "0-1": "[0, 0.35, 0.5, 0.65]", "1-0": "[0.5, 0.5, 1, 0.53]"}
    assert parquet.ask("refcoco/testA", square)[0].score == 0
    monkeypatch.setenv("CONCEPTVLM_BOX_CONVENTION", "square")
    result, model = parquet.ask("refcoco/testA", square)
    assert result.score == 1
    assert model.asked["1-0"].content[1].text == (
        "Please provide the bounding box coordinate of the region this sentence describes: dog"
    )
    monkeypatch.setenv("CONCEPTVLM_BOX_CONVENTION", "xyxy")
    with pytest.raises(ValueError, match=r"CONVENTION is 'xyxy'; it must be one of these\. 0-1000: xyxy"):
        parquet.ask("refcoco/testA", square)
    assert refcoco("refcoco/val", "0-1").prompt.endswith("in shares of the width and height of the picture: {question}")


def write_refs(bench: Any, picture: Callable[..., bytes], folder: str, export: str, splits: Sequence[str]) -> None:
    sentences = [{"sent": "the lady", "sent_id": 5, "raw": "The lady"}, {"sent": "left", "sent_id": 6, "raw": "left"}]
    refs = [
        {"ref_id": place, "ann_id": 100 + place, "image_id": 7, "split": split, "category_id": 1}
        | {"sentences": [one | {"sent_id": 10 * place + one["sent_id"]} for one in sentences]}
        for place, split in enumerate(splits)
    ]
    bench.write(f"{folder}/refs({export}).json", json.dumps(refs))
    labels = [{"id": 100 + place, "image_id": 7, "bbox": [1, 1, 4, 2 + place]} for place in range(len(splits))]
    bench.write(f"{folder}/instances.json", json.dumps({"images": [], "annotations": labels}))
    bench.write(f"train2014/{NAMES[1]}", picture(3, "JPEG"))


@pytest.mark.parametrize(
    ("task", "folder", "export"),
    [("refcoco/val", "refcoco", "unc"), ("refcoco-plus/val", "refcoco+", "unc"), ("refcocog/val", "refcocog", "umd")],
)
def test_refs_as_json_are_a_release_too(
    bench: Any, picture: Callable[..., bytes], task: str, folder: str, export: str
) -> None:
    write_refs(bench, picture, folder, export, ["train", "val"])
    found = bench.prepare(task)
    assert [(name, one.content[1].text, one.box) for name, one in found.items()] == [
        ("15", "the lady", (1, 1, 5, 4)),
        ("16", "left", (1, 1, 5, 4)),
    ]


def test_json_lines_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    row = {
        "image": f"data/coco/train2014/{NAMES[0]}",
        "sent": "the lady",
        "bbox": [1, 2, 5, 4],
        "height": 6,
        "width": 20,
    }
    bench.write("refcocog_test.jsonl", json.dumps(row) + "\n")
    bench.write(f"images/train2014/{NAMES[0]}", picture(12, "JPEG"))
    assert bench.prepare("refcocog/test")["0"].box == (1, 2, 5, 4)


def test_the_official_pickle_is_never_opened(bench: Any) -> None:
    bench.write("refcoco/refs(unc).p", pickle.dumps([{"ref_id": 1}]))
    with pytest.raises(ValueError, match=r"needed: .*The official refs\(unc\)\.p is a pickle.* is not read"):
        bench.prepare("refcoco/val")


def test_a_group_holds_the_splits(bench: Any) -> None:
    assert [task.name for task in find_tasks("refcocog")] == ["refcocog/val", "refcocog/test"]
