import json
from collections.abc import Callable
from typing import Any

import pytest

ROWS: list[dict[str, Any]] = [
    {"questionId": 65718, "question": "Which platform?", "image_local_name": "20471.jpeg", "answers": ["pinterest"]}
    | {"answer_type": ["single span"], "operation/reasoning": []},
    {"questionId": 65719, "question": "How many?", "image_local_name": "20471.jpeg", "answers": ["6", "six"]}
    | {"answer_type": ["non-extractive"], "operation/reasoning": ["counting", "arithmetic"]},
]


def test_scores_come_by_answer_type_and_operation(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.write("infographicsVQA_val_v1.0_withQT.json", json.dumps({"data": ROWS}))
    bench.write("infographicsvqa_images/20471.jpeg", picture(3, "JPEG"))
    found = bench.prepare("infovqa/val")
    assert found["65718"].group == found["65719"].group == "20471.jpeg"
    # One sign of nine is wrong; five of six is right.
    result, _ = bench.ask("infovqa/val", {"65718": "pinterezt", "65719": "Seven"})
    assert result.score == pytest.approx((1 - 1 / 9) / 2)
    assert result.details["by_answer_type"]["single span"] == {"score": pytest.approx(8 / 9), "n": 1}
    assert result.details["by_operation"] == {
        "arithmetic": {"score": 0.0, "n": 1},
        "counting": {"score": 0.0, "n": 1},
    }


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [row | {"image": {"bytes": picture(1), "path": None}, "image_url": "https://x/1"} for row in ROWS]
    bench.parquet("InfographicVQA/validation-00000-of-00001.parquet", rows)
    assert bench.prepare("infovqa/val")["65719"].meta["operation"] == ["counting", "arithmetic"]
