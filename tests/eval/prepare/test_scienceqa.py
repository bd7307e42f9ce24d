import json
from collections.abc import Callable
from typing import Any

import pytest


def problem(**fields: Any) -> dict[str, Any]:
    told = {
        "question": "Which?",
        "choices": ["x", "y", "z"],
        "answer": 1,
        "hint": "",
        "image": None,
        "task": "closed choice",
    }
    return told | {"grade": "grade2", "subject": "natural science", "topic": "physics", "split": "test"} | fields


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    problems = {
        "4": problem(image="image.png", hint="Look up."),
        "5": problem(subject="social science", grade="grade9"),
        "6": problem(split="train"),
        "11": problem(image="image.png", choices=["x", "y"], answer=0),
    }
    bench.write("problems.json", json.dumps(problems))
    bench.write("pid_splits.json", json.dumps({"train": ["6"], "test": ["4", "5", "11"]}))
    for number in ("4", "11"):
        bench.write(f"images/test/{number}/image.png", picture(int(number)))
    return bench


def test_test_questions_alone_are_asked_with_their_context(release: Any, shown: Callable[..., str]) -> None:
    found = release.prepare("scienceqa/test")
    assert list(found) == ["4", "5", "11"]
    result, model = release.ask("scienceqa/test", {"4": "B", "5": "C. z", "11": "The answer is A."})
    assert result.score == pytest.approx(2 / 3)
    assert result.unparsed == 0
    assert shown(model.asked["4"]).startswith("[4]Context: Look up.\nWhich?\nA. x\nB. y\nC. z\nAnswer with")
    assert shown(model.asked["5"]).startswith("Which?\nA. x")
    figures = {"text": 1.0, "image": 1.0, "none": 0.0, "grades 1-6": 1.0, "grades 7-12": 0.0}
    assert result.details["by_context_and_grade"] == figures
    assert result.details["by_category"]["social science"] == {"score": 0.0, "n": 1}


def test_image_takes_the_questions_that_have_one(release: Any) -> None:
    assert list(release.prepare("scienceqa/image")) == ["4", "11"]
    result, _ = release.ask("scienceqa/image", {"4": "b", "11": "A"})
    assert (result.score, result.unparsed) == (0.5, 0.5)


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [problem(image={"bytes": picture(1), "path": "image.png"}), problem()]
    bench.parquet("data/test-00000-of-00001-f0e7.parquet", rows)
    assert list(bench.prepare("scienceqa/image")) == ["0"]
    assert list(bench.prepare("scienceqa/test")) == ["0", "1"]


def test_a_missing_picture_is_named(release: Any) -> None:
    (release.release / "images/test/11/image.png").unlink()
    with pytest.raises(ValueError, match=r"lacks the picture test/11/image\.png"):
        release.prepare("scienceqa/test")
    assert not release.benchmarks.exists()
