import json
from collections.abc import Callable
from typing import Any

import pytest


def question(number: int, **fields: Any) -> dict[str, Any]:
    told = {
        "question_id": str(number),
        "question": "How many?",
        "answer": "C",
        "data_id": f"{number}_9",
        "data_type": "image",
    }
    told |= {f"choice_{letter}": word for letter, word in zip("abcd", ("One", "Two", "Three", "Four"), strict=True)}
    return told | {"question_type_id": 5} | fields


def test_questions_about_pictures_are_asked_and_their_first_sign_read(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    asked = [
        question(1),
        question(2, question_type_id=1, answer="A"),
        question(3, data_type="video", question_type_id=10),
    ]
    bench.write("SEED-Bench.json", json.dumps({"question_type": {}, "questions": asked}))
    for number in (1, 2):
        bench.write(f"SEED-Bench-image/{number}_9", picture(number))
    assert list(bench.prepare("seedbench/image")) == ["1", "2"]
    result, model = bench.ask("seedbench/image", {"1": "C. Three", "2": "The answer is A"})
    assert (result.score, result.unparsed) == (0.5, 0.5)
    assert result.details["by_category"] == {
        "Instances Counting": {"score": 1.0, "n": 1},
        "Scene Understanding": {"score": 0.0, "n": 1},
    }
    assert shown(model.asked["1"]).startswith("[1]How many?\nA. One\nB. Two")


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [question(1, image=[{"bytes": picture(1), "path": None}]), question(2, data_type="video", image=[])]
    bench.parquet("data/test-00000-of-00002.parquet", rows)
    assert list(bench.prepare("seedbench/image")) == ["1"]


def test_a_repeated_choice_loses_no_question(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.write("SEED-Bench.json", json.dumps({"questions": [question(1, choice_b="One")]}))
    bench.write("SEED-Bench-image/1_9", picture(1))
    assert bench.prepare("seedbench/image")["1"].choices == ("One", "One ", "Three", "Four")


def test_an_answer_beyond_the_options_is_an_error(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.write("SEED-Bench.json", json.dumps({"questions": [question(1, answer="E")]}))
    bench.write("SEED-Bench-image/1_9", picture(1))
    with pytest.raises(ValueError, match="question 1 has the answer 'E'; it must be A, B, C or D"):
        bench.prepare("seedbench/image")
