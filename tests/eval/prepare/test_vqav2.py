import json
from collections.abc import Callable
from typing import Any

import pytest

QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


def people(*answers: str) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number}
        for number, answer in enumerate(answers, start=1)
    ]


ROWS: list[dict[str, Any]] = [
    {"question_id": 42000, "image_id": 42, "question": "Is it red?", "question_type": "is it", "answer_type": "yes/no"}
    | {"answers": people(*["yes"] * 10), "multiple_choice_answer": "yes"},
    {
        "question_id": 42001,
        "image_id": 42,
        "question": "How many?",
        "question_type": "how many",
        "answer_type": "number",
    }
    | {"answers": people(*["2"] * 3, *["3"] * 7), "multiple_choice_answer": "3"},
    {
        "question_id": 73000,
        "image_id": 73,
        "question": "What is it?",
        "question_type": "what is",
        "answer_type": "other",
    }
    | {"answers": people(*["a dog"] * 2, *["cat"] * 8), "multiple_choice_answer": "cat"},
]


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    asked, told = ("question_id", "image_id", "question"), ("question_id", "answers", "answer_type", "question_type")
    bench.write(QUESTIONS, json.dumps({"questions": [{name: row[name] for name in asked} for row in ROWS]}))
    bench.write(ANNOTATIONS, json.dumps({"annotations": [{name: row[name] for name in told} for row in ROWS[::-1]]}))
    for number in (42, 73):
        bench.write(f"val2014/COCO_val2014_{number:012d}.jpg", picture(number, "JPEG"))
    return bench


def test_ten_people_are_counted_by_the_official_rule(release: Any, shown: Callable[..., str]) -> None:
    found = release.prepare("vqav2/val")
    assert list(found) == ["42000", "42001", "73000"]
    assert (found["42001"].answers, found["42001"].group) == (("2",) * 3 + ("3",) * 7, "42")
    result, model = release.ask("vqav2/val", {"42000": "Yes", "42001": "two", "73000": " the dog.\n"})
    # Ten alike are compared as they are: "Yes" is not "yes". Three of ten: 0.9. Two of ten: 0.6.
    assert result.score == pytest.approx((0 + 0.9 + 0.6) / 3)
    assert result.details["by_category"]["number"] == {"score": pytest.approx(0.9), "n": 1}
    assert result.details["by_question_type"]["what is"] == {"score": pytest.approx(0.6), "n": 1}
    assert shown(model.asked["73000"]) == "[73]What is it?\nAnswer the question using a single word or phrase."


def test_an_empty_answer_is_unparsed(release: Any) -> None:
    release.prepare("vqav2/val")
    result, _ = release.ask("vqav2/val", {"42000": "yes", "42001": " \n", "73000": "cat"})
    assert (result.score, result.unparsed) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [row | {"image": {"bytes": picture(1), "path": None}} for row in ROWS]
    bench.parquet("data/validation-00000-of-00068.parquet", rows)
    assert bench.prepare("vqav2/val")["73000"].meta == {"question_type": "what is"}


def test_fields_of_another_kind_are_no_traceback(release: Any) -> None:
    row = {name: ROWS[0][name] for name in ("question_id", "answer_type", "question_type")}
    release.write(ANNOTATIONS, json.dumps({"annotations": [row | {"answers": None}]}))
    with pytest.raises(ValueError, match=r"task vqav2/val: a file of the release is not of the form .*needed: v2_Open"):
        release.prepare("vqav2/val")
    assert not release.benchmarks.exists()


def test_a_question_without_an_annotation_and_a_picture_that_is_missing_are_named(release: Any) -> None:
    (release.release / "val2014/COCO_val2014_000000000073.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks the picture val2014/COCO_val2014_000000000073\.jpg"):
        release.prepare("vqav2/val")
    release.write(ANNOTATIONS, json.dumps({"annotations": []}))
    with pytest.raises(ValueError, match=r"annotations\.json has no annotation of question 42000"):
        release.prepare("vqav2/val")
    assert not release.benchmarks.exists()
