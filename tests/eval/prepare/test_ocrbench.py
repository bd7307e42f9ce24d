import json
from collections.abc import Callable
from typing import Any

import pytest

FORMULA = "Handwritten Mathematical Expression Recognition"
ROWS: list[dict[str, Any]] = [
    {"dataset_name": "IIIT5K", "id": 0, "type": "Regular Text Recognition", "image_path": "IIIT5K/1.png"}
    | {"question": "what is written in the image?", "answers": ["CENTRE", "Center"]},
    {"dataset_name": "HME100k", "id": 1, "type": FORMULA, "image_path": "HME100k/2.png"}
    | {"question": "Write the LaTeX.", "answers": "x ^ { 2 }"},
    {"dataset_name": "docVQA", "id": 2, "type": "Doc-oriented VQA", "image_path": "docVQA/3.png"}
    | {"question": "Who?", "answers": ["Ms. Poe"]},
]


def test_right_answers_are_counted_by_kind_and_in_all(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    bench.write("OCRBench/OCRBench.json", json.dumps(ROWS))
    for number, row in enumerate(ROWS):
        bench.write(f"OCRBench_Images/{row['image_path']}", picture(number))
    bench.prepare("ocrbench")
    result, model = bench.ask("ocrbench", {"0": "It says Centre.", "1": "x^{2}+1", "2": "Mr. Poe"})
    assert result.score == pytest.approx(2 / 3)
    figures = result.details["ocrbench"]
    assert (figures["Final Score"], figures["Text Recognition"], figures[FORMULA]) == (2, 1, 1)
    assert figures["Doc-oriented VQA"] == 0
    assert shown(model.asked["0"]) == "[0]what is written in the image?"


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [
        {"dataset": row["dataset_name"], "question": row["question"], "question_type": row["type"]}
        | {"answer": [row["answers"]] if isinstance(row["answers"], str) else row["answers"]}
        | {"image": {"bytes": picture(1), "path": None}}
        for row in ROWS
    ]
    bench.parquet("data/test-00000-of-00001.parquet", rows)
    assert bench.prepare("ocrbench")["1"].meta == {"dataset": "HME100k"}
