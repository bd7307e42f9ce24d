import base64
from collections.abc import Callable
from typing import Any

import pytest

from eval.subset import limited, spread
from eval.task import find_task

STEP = 1_000_000


def row(index: int, image: str, choices: str = "xyz", answer: str = "A", **fields: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"index": index, "question": f"Which, {index % STEP}?", "hint": ""}
    told |= {letter: choices[place : place + 1] for place, letter in enumerate("ABCD")}
    return (
        told
        | {"answer": answer, "category": "ocr", "image": image, "l2-category": "finegrained", "split": "dev"}
        | fields
    )


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    """Two questions; the first with its three rotations, the second with two options."""
    one, two = (base64.b64encode(picture(number)).decode() for number in (1, 2))
    rows = [
        row(7, one, "xyz", "B", hint="Look."),
        row(8, two, "pq", "A", category="scene", **{"l2-category": "coarse"}),
        row(7 + STEP, "7", "yzx", "A"),
        row(7 + 2 * STEP, "7", "zxy", "C"),
        row(8 + STEP, "8", "qp", "B", category="scene", **{"l2-category": "coarse"}),
    ]
    bench.table("MMBench_DEV_EN.tsv", rows)
    return bench


def test_a_question_is_right_only_if_all_its_rotations_are(release: Any, shown: Callable[..., str]) -> None:
    found = release.prepare("mmbench/dev-en")
    assert {question.id: question.group for question in found.values()} == (
        {"7": "7", "8": "8", "1000007": "7", "2000007": "7", "1000008": "8"}
    )
    assert found["2000007"].truth == "y"
    said = {"7": "B", "1000007": "A", "2000007": "A", "8": "The answer is A.", "1000008": "p"}
    result, model = release.ask("mmbench/dev-en", said)
    assert result.score == 0.5
    assert result.details["mean_over_questions"] == 4 / 5
    assert result.details["circular"] == {
        "circular": 0.5,
        "vanilla": 1.0,
        "questions": 2,
        "category": {"ocr": 0.0, "scene": 1.0},
        "l2-category": {"finegrained": 0.0, "coarse": 1.0},
    }
    assert result.chance == pytest.approx((1 / 27 + 1 / 4) / 2, abs=0.12)  # 50 draws of two questions
    assert shown(model.asked["7"]).startswith("[1]Look.\nWhich, 7?\nA. x\nB. y\nC. z\nAnswer with")
    assert shown(model.asked["1000007"]).startswith("[1]Which, 7?\nA. y")
    _, model = release.ask("mmbench/dev-en", said, prompt="official")
    assert shown(model.asked["8"]) == (
        "[2]Question: Which, 8?\nOptions:\nA. p\nB. q\nPlease select the correct answer from the options above."
    )


def test_a_limit_keeps_questions_with_all_their_rotations(bench: Any, picture: Callable[..., bytes]) -> None:
    image = base64.b64encode(picture(1)).decode()
    bench.table("MMBench_DEV_EN_V11.tsv", [row(index, image, "xyz", "B") for index in range(10)])
    bench.prepare("mmbench/dev-en-v11")
    asked = limited(find_task("mmbench/dev-en-v11"), 7).questions()
    assert sorted(question.id for question in asked) == sorted(
        str(index + turn * STEP) for index in spread(10, 2) for turn in range(3)
    )


def test_a_table_without_rotations_gets_them(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.table("MMBench_DEV_EN_V11.tsv", [row(7, base64.b64encode(picture(1)).decode(), "xyz", "B")])
    found = bench.prepare("mmbench/dev-en-v11")
    assert [(question.id, question.choices, question.truth) for question in found.values()] == [
        ("7", ("x", "y", "z"), "y"),
        ("1000007", ("y", "z", "x"), "y"),
        ("2000007", ("z", "x", "y"), "y"),
    ]


def test_a_picture_that_stands_nowhere_is_named(bench: Any) -> None:
    bench.table("MMBench_DEV_EN.tsv", [row(7, "5")])
    with pytest.raises(ValueError, match="index 7: its picture is said to be that of index 5"):
        bench.prepare("mmbench/dev-en")


def test_a_split_without_answers_is_refused(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.table("MMBench_DEV_EN.tsv", [row(7, base64.b64encode(picture(1)).decode(), answer="")])
    with pytest.raises(
        ValueError, match="the answer '' is none of 3 options; a split without answers cannot be scored"
    ):
        bench.prepare("mmbench/dev-en")
