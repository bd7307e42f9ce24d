import json
from collections.abc import Callable
from typing import Any

import pytest

HUMAN = [
    {"imgname": "41699051005347.png", "query": "How many?", "label": "14"},
    {"imgname": "41699051005347.png", "query": "Which colour?", "label": "Light blue"},
]
AUGMENTED = [{"imgname": "multi_col_1.png", "query": "What share?", "label": "100"}]


def test_numbers_may_be_five_in_a_hundred_off(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    bench.write("ChartQA Dataset/test/test_human.json", json.dumps(HUMAN))
    for number, name in enumerate(("41699051005347.png", "multi_col_1.png")):
        bench.write(f"ChartQA Dataset/test/png/{name}", picture(number))
    with pytest.raises(ValueError, match=r"has test_human\.json but no test_augmented\.json beside it"):
        bench.prepare("chartqa/test")
    bench.write("ChartQA Dataset/test/test_augmented.json", json.dumps(AUGMENTED))
    assert list(bench.prepare("chartqa/test")) == ["human-0", "human-1", "augmented-0"]
    said = {"human-0": "14%", "human-1": " light blue ", "augmented-0": "95"}
    result, model = bench.ask("chartqa/test", said, prompt="lmms-eval")
    assert result.score == pytest.approx(2 / 3)
    assert result.details["by_category"] == {
        "augmented": {"score": 1.0, "n": 1},
        "human": {"score": 0.5, "n": 2},
    }
    assert shown(model.asked["augmented-0"]) == "[1]What share?\nAnswer the question with a single word."


def test_both_parquet_forms_are_releases_too(bench: Any, picture: Callable[..., bytes]) -> None:
    stored = {"bytes": picture(1), "path": None}
    rows = [
        {"type": kind, "question": "How many?", "answer": "3", "image": stored}
        for kind in ("augmented_test", "human_test", "human_test")
    ]
    bench.parquet("data/test-00000-of-00001.parquet", rows)
    assert list(bench.prepare("chartqa/test")) == ["augmented-0", "human-0", "human-1"]
    other = [{"image": stored, "query": "How many?", "label": ["3"], "human_or_machine": 1}]
    bench.parquet("data/test-00000-of-00001.parquet", other)
    bench.benchmarks = bench.benchmarks / "again"
    from eval.prepare.write import prepare

    assert prepare("chartqa/test", bench.release, bench.benchmarks).questions == 1
    bench.parquet("data/test-00000-of-00001.parquet", [other[0] | {"human_or_machine": 7}])
    with pytest.raises(ValueError, match="a question is of kind 7; known: human_test, augmented_test, 0, 1"):
        prepare("chartqa/test", bench.release, bench.benchmarks / "third")
