import json
from collections.abc import Callable
from typing import Any

import pytest

ROWS: list[dict[str, Any]] = [
    {"questionId": 49153, "question": "What is the value?", "question_types": ["figure/diagram", "form"]}
    | {"image": "documents/pybv0228_81.png", "docId": 14465, "ucsf_document_id": "pybv0228"}
    | {"ucsf_document_page_no": "81", "answers": ["0.28", "0.28 mm"], "data_split": "val"},
    {"questionId": 24580, "question": "Who signed?", "question_types": ["handwritten"]}
    | {"image": "documents/hqvw0217_22.png", "docId": 8000, "ucsf_document_id": "hqvw0217"}
    | {"ucsf_document_page_no": "22", "answers": ["abcd"], "data_split": "val"},
]


@pytest.mark.parametrize("folder", ["documents", "spdocvqa_images"])
def test_the_best_answer_counts_and_half_right_stays(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str], folder: str
) -> None:
    bench.write("val_v1.0_withQT.json", json.dumps({"dataset_name": "SP-DocVQA", "data": ROWS}))
    for number, row in enumerate(ROWS):
        bench.write(f"{folder}/{row['image'].partition('/')[2]}", picture(number))
    found = bench.prepare("docvqa/val")
    assert found["49153"].group == "pybv0228/81"
    result, model = bench.ask("docvqa/val", {"49153": "0.28 MM", "24580": "abxy"})
    assert result.score == pytest.approx((1 + 0.5) / 2)
    types = result.details["by_question_type"]
    assert types == {
        "figure/diagram": {"score": 1.0, "n": 1},
        "form": {"score": 1.0, "n": 1},
        "handwritten": {"score": 0.5, "n": 1},
    }
    assert shown(model.asked["24580"]) == "[1]Who signed?\nAnswer the question using a single word or phrase."


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [row | {"image": {"bytes": picture(1), "path": None}, "questionId": str(row["questionId"])} for row in ROWS]
    bench.parquet("DocVQA/validation-00000-of-00006.parquet", rows)
    assert bench.prepare("docvqa/val")["49153"].answers == ("0.28", "0.28 mm")


def test_hidden_answers_cannot_be_scored(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [ROWS[0] | {"image": {"bytes": picture(1), "path": None}, "answers": None}]
    bench.parquet("DocVQA/validation-00000-of-00006.parquet", rows)
    with pytest.raises(ValueError, match="question 49153 has no answers; those of the test split are hidden"):
        bench.prepare("docvqa/val")
