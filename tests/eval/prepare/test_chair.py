import json
from collections.abc import Callable
from typing import Any

import pytest

NUMBERS = (42, 73, 74)


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    classes = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]
    labels = [
        {"image_id": 42, "category_id": 18},
        {"image_id": 42, "category_id": 18},
        {"image_id": 73, "category_id": 3},
    ]
    instances = {"images": [{"id": n} for n in NUMBERS], "annotations": labels, "categories": classes}
    bench.write("annotations/instances_val2014.json", json.dumps(instances))
    captions = [{"image_id": n, "caption": f"A picture, {place}."} for n in NUMBERS for place in range(4)]
    captions += [
        {"image_id": n, "caption": text} for n, text in ((42, "A dog and a cat."), (73, "Cars."), (74, "Grass."))
    ]
    bench.write("annotations/captions_val2014.json", json.dumps({"annotations": captions}))
    for number in NUMBERS:
        bench.write(f"val2014/COCO_val2014_{number:012d}.jpg", picture(number - 42, "JPEG"))
    bench.write("image_ids.txt", "73\n42\n")
    rows = [{"cocoid": n, "split": split} for n, split in zip(NUMBERS, ("test", "train", "test"), strict=True)]
    bench.write("dataset_coco.json", json.dumps({"images": rows}))
    return bench


def test_objects_that_are_not_there_count_by_mention_and_by_caption(release: Any, shown: Callable[..., str]) -> None:
    found = release.prepare("chair/val500")
    assert list(found) == ["42", "73"]
    assert found["42"].meta == {"objects": ["dog"]}
    result, model = release.ask("chair/val500", {"42": "Two dogs, a cat and a bus.", "73": "A car."})
    # Mentions: dog, cat (people name it), bus (not there), car. Classes there: dog, cat, car: all named.
    assert result.score == pytest.approx(1 - 1 / 4)
    figures = result.details["chair"]
    assert figures == {"chair_i": 0.25, "chair_s": 0.5, "recall": 1.0, "length": 4.5, "mentions": 4}
    assert result.details["mean_over_questions"] == pytest.approx((2 / 3 + 1) / 2)
    assert shown(model.asked["73"]) == "[31]Please describe this image in detail."


def test_karpathys_test_split_gets_the_prompt_for_one_sentence(release: Any, shown: Callable[..., str]) -> None:
    assert list(release.prepare("chair/karpathy")) == ["42", "74"]
    result, model = release.ask("chair/karpathy", {"42": "A dog.", "74": "Grass."})
    assert (result.score, result.details["chair"]["recall"]) == (1.0, 0.5)
    assert shown(model.asked["74"]) == "[32]Provide a one-sentence caption for the provided image."


def test_without_a_list_the_pictures_are_drawn_by_a_hash_of_their_number(release: Any) -> None:
    (release.release / "image_ids.txt").unlink()
    assert list(release.prepare("chair/val500")) == ["42", "73", "74"]


def test_a_list_of_other_pictures_is_refused(release: Any) -> None:
    release.write("image_ids.txt", "42\n9\n")
    with pytest.raises(ValueError, match=r"image_ids\.txt names 1 pictures that are not in val2014, the first: 9"):
        release.prepare("chair/val500")
    release.write("image_ids.txt", "COCO_42\n")
    with pytest.raises(ValueError, match="'COCO_42' is no number of a picture"):
        release.prepare("chair/val500")
