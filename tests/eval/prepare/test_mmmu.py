from collections.abc import Callable
from typing import Any

import pytest


def row(picture: Callable[..., bytes], number: int, subject: str = "Art", **fields: Any) -> dict[str, Any]:
    told = {
        "id": f"validation_{subject}_{number}",
        "question": "What is <image 1>?",
        "options": "['a cat', \"a dog's\", 'a cow']",
        "explanation": "",
        **{f"image_{place}": None for place in range(1, 8)},
        "img_type": "['Photographs']",
        "answer": "B",
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "x",
    }
    told |= {"subject": subject}
    return told | {"image_1": {"bytes": picture(number), "path": "x.png"}} | fields


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    second = {"bytes": picture(20), "path": "y.png"}
    bench.parquet(
        "Art/validation-00000-of-00001.parquet",
        [
            row(picture, 1),
            row(picture, 2, question="Compare <image 1> and <image 2>.", image_2=second),
            row(picture, 3, question="Pick.", options="['<image 1>', '<image 2>']", answer="A", image_2=second),
        ],
    )
    open_one = {"options": "[]", "question_type": "open", "question": "How many in <image 1>?"}
    bench.parquet(
        "Math/validation-00000-of-00001.parquet",
        [
            row(picture, 1, "Math", **open_one, answer="12.5"),
            row(picture, 2, "Math", **open_one, answer="['no', 'none']"),
        ],
    )
    return bench


def test_pictures_stand_where_they_are_named(release: Any, shown: Callable[..., str]) -> None:
    found = release.prepare("mmmu/val")
    assert shown(found["validation_Art_1"]) == "What is [1]?"
    assert shown(found["validation_Art_2"]) == "Compare [2] and [20]."
    assert shown(found["validation_Art_3"]) == "Pick.\n<image 1>: [3]\n<image 2>: [20]"
    assert found["validation_Art_1"].choices == ("a cat", "a dog's", "a cow")
    assert found["validation_Math_2"].answers == ("no", "none")


def test_letters_and_open_answers_are_scored_by_the_official_rules(release: Any, shown: Callable[..., str]) -> None:
    release.prepare("mmmu/val")
    said = {
        "validation_Art_1": "(B)",
        "validation_Art_2": "no idea",
        "validation_Art_3": "It may be B, but finally A .",
        "validation_Math_1": "So the result is 12.50.",
        "validation_Math_2": "17",
    }
    result, model = release.ask("mmmu/val", said)
    assert (result.score, result.unparsed) == (3 / 5, 1 / 5)
    assert result.details["by_subject"] == {"Art": 2 / 3, "Math": 0.5}
    assert result.details["by_discipline"] == {"Art and Design": 2 / 3, "Science": 0.5}
    assert shown(model.asked["validation_Math_1"]) == (
        "How many in [1]?\nAnswer the question using a single word or phrase."
    )
    official, model = release.ask("mmmu/val", said, prompt="official")
    assert shown(model.asked["validation_Art_1"]) == (
        "What is [1]?\n\n(A) a cat\n(B) a dog's\n(C) a cow\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    used = {name: official.details[name]["file"] for name in ("prompt", "open_prompt")}
    assert used == {"prompt": "official/mmmu.txt", "open_prompt": "official/mmmu-open.txt"}


def test_hidden_answers_cannot_be_scored(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.parquet("Art/validation-00000-of-00001.parquet", [row(picture, 1, answer="?")])
    with pytest.raises(
        ValueError, match=r"validation_Art_1: the answer '\?' is none of 3 options; test answers are not public"
    ):
        bench.prepare("mmmu/val")


def test_mmmu_pro_has_two_settings(bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]) -> None:
    options = str([f"option {number}" for number in range(10)])
    standard = row(picture, 1, id="test_History_1", options=options, answer="J", subject="History")
    bench.parquet("standard (10 options)/test-00000-of-00001.parquet", [standard])
    vision = {"id": "test_History_1", "image": {"bytes": picture(5), "path": "z.png"}, "options": options}
    bench.parquet("vision/test-00000-of-00001.parquet", [vision | {"answer": "C", "subject": "History"}])
    assert bench.prepare("mmmu-pro/standard")["test_History_1"].answer == 9
    bench.prepare("mmmu-pro/vision")
    result, model = bench.ask("mmmu-pro/standard", {"test_History_1": "Answer: J"})
    assert (result.score, result.chance) == (1.0, pytest.approx(0.1))
    result, model = bench.ask("mmmu-pro/vision", {"test_History_1": "D"})
    assert result.score == 0
    assert shown(model.asked["test_History_1"]) == "[5]Answer with the option letter from the given choices directly."
