from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.group_scores import MME_COGNITION, MME_PERCEPTION

TASKS = (*MME_PERCEPTION, *MME_COGNITION)
APART = ("posters", "celebrity", "scene", "landmark", "artwork")  # pictures and questions in folders of their own


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    """Two pictures a task."""
    for task in TASKS:
        for number in (1, 2):
            base = f"MME_Benchmark_release_version/{task}"
            images, texts = (f"{base}/images", f"{base}/questions_answers_YN") if task in APART else (base, base)
            lines = "Is it so? Please answer yes or no.\tYes\nIs it not so? Please answer yes or no.\tNo\n"
            bench.write(f"{texts}/{number:04d}.txt", lines)
            bench.write(f"{images}/{number:04d}.jpg", picture(number, "JPEG"))
    return bench


def says(wrong: dict[str, str]) -> dict[str, str]:
    right = {
        f"{task}/{page:04d}/{place}": ("Yes", "No")[place] for task in TASKS for page in (1, 2) for place in (0, 1)
    }
    return right | wrong


def test_the_score_is_points_of_2800(release: Any, shown: Callable[..., str]) -> None:
    found = release.prepare("mme")
    assert len(found) == 56
    assert found["OCR/0002/1"].group == "OCR/0002"
    # One question of four wrong: 75 + 50 points. Both of one picture unread: 50 + 50.
    said = says({"OCR/0001/1": "Yes", "code_reasoning/0002/0": "It is", "code_reasoning/0002/1": " hm"})
    result, model = release.ask("mme", said)
    points = 12 * 200 + 125 + 100
    assert result.details["headline"] == {
        "name": "perception + cognition",
        "value": pytest.approx(points),
        "scale": 2800,
    }
    assert result.score == pytest.approx(points / 2800)
    figures = result.details["mme"]
    assert (figures["perception"], figures["cognition"]) == (pytest.approx(1925), pytest.approx(700))
    assert figures["by_task"]["OCR"] == {"accuracy": 0.75, "accuracy_plus": 0.5, "score": 125.0}
    assert result.unparsed == pytest.approx(2 / 56)
    assert result.low <= result.score <= result.high
    assert shown(model.asked["scene/0001/0"]) == "[1]Is it so? Please answer yes or no."


def test_a_constant_answer_gets_a_quarter_of_the_points(release: Any) -> None:
    release.prepare("mme")
    result, _ = release.ask("mme", dict.fromkeys(says({}), "yes"))
    assert result.score == result.majority == pytest.approx(0.25)


def test_a_task_that_is_missing_and_a_page_of_one_line_are_named(release: Any) -> None:
    for path in sorted((release.release / "MME_Benchmark_release_version/scene").rglob("*.txt")):
        path.unlink()
    with pytest.raises(ValueError, match="has no questions of the task scene"):
        release.prepare("mme")
    release.write("MME_Benchmark_release_version/existence/0001.txt", "Is it so?\tYes\n")
    with pytest.raises(ValueError, match=r"0001\.txt: two lines of question, tab and answer were expected, got 1"):
        release.prepare("mme")


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [
        {"question_id": "code_reasoning/0020.png", "image": {"bytes": picture(1), "path": None}, "answer": answer}
        | {"question": "Is it so? Please answer yes or no.", "category": "code_reasoning"}
        for answer in ("Yes", "No")
    ]
    bench.parquet("data/test-00000-of-00004.parquet", rows)
    found = bench.prepare("mme")
    assert list(found) == ["code_reasoning/0020/0", "code_reasoning/0020/1"]
    assert Path(found["code_reasoning/0020/0"].group or "").name == "0020"
