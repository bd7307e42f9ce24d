import json
from collections.abc import Callable
from typing import Any

import pytest

ROWS: list[dict[str, Any]] = [
    {"question_id": 34602, "image_id": "0054c91397f2fe05", "question": "What is the brand?"}
    | {"answers": ["nous les gosses"] * 4 + ["dakota"] * 6, "image_classes": ["Belt"], "set_name": "val"},
    {"question_id": 34603, "image_id": "005635e119b9f32f", "question": "Which number?"}
    | {"answers": ["22"] * 10, "image_classes": ["Bus"], "set_name": "val"},
]


def test_answers_are_always_normalised_and_no_ocr_is_shown(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    bench.write("TextVQA_0.5.1_val.json", json.dumps({"dataset_type": "val", "data": ROWS}))
    for number, row in enumerate(ROWS):
        bench.write(f"train_images/{row['image_id']}.jpg", picture(number, "JPEG"))
    bench.prepare("textvqa/val")
    # Four of ten agree with the first: 1. The second would be 1, were it not for the wrong number.
    result, model = bench.ask("textvqa/val", {"34602": "The Nous Les Gosses.", "34603": "two"})
    assert result.score == 0.5
    assert shown(model.asked["34602"]) == "[0]What is the brand?\nAnswer the question using a single word or phrase."
    result, _ = bench.ask("textvqa/val", {"34602": "dakotas", "34603": "22?"})
    assert result.score == 0.5


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [row | {"image": {"bytes": picture(1), "path": None}} for row in ROWS]
    bench.parquet("data/validation-00000-of-00003.parquet", rows)
    assert bench.prepare("textvqa/val")["34603"].answers == ("22",) * 10


def test_a_file_of_the_test_split_is_refused(bench: Any, picture: Callable[..., bytes]) -> None:
    hidden = [{name: value for name, value in ROWS[0].items() if name != "answers"}]
    bench.write("TextVQA_0.5.1_val.json", json.dumps({"data": hidden}))
    bench.write(f"train_images/{ROWS[0]['image_id']}.jpg", picture(1, "JPEG"))
    with pytest.raises(ValueError, match=r"has no 'answers'; it has: question_id"):
        bench.prepare("textvqa/val")
