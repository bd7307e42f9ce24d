"""Runs beside runs: the difference of their scores, and an interval that questions and seeds make wider."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from data.sample import Part, Question
from eval.compare import compare_figures, compare_scores, t975
from eval.run import evaluate
from eval.task import Task, own_group


def questions(num: int) -> list[Question]:
    return [
        Question(
            key=f"q{i}",
            id=f"q{i}",
            content=(Part(text=f"question {i}"),),
            images={},
            choices=("yes", "no"),
            answer=i % 2,
            group=f"g{i // 2}",
        )
        for i in range(num)
    ]


class Right:
    """Answers rightly those questions whose number is in `known`."""

    def __init__(self, known: set[int]) -> None:
        self.known = known

    def generate(self, questions: object, max_new_tokens: int) -> list[str]:
        raise AssertionError("the task chooses")

    def score(self, questions: list[Question], candidates: object) -> list[list[float]]:
        def row(question: Question) -> list[float]:
            right = (int(question.id[1:]) in self.known) == (question.answer == 0)
            return [-1.0, -2.0] if right else [-2.0, -1.0]

        return [row(question) for question in questions]

    def fingerprint(self) -> str:
        return str(sorted(self.known))


def task(num: int = 40) -> Task:
    return Task(name="toy", questions=lambda: questions(num), mode="choose", group_by=own_group)


def runs(folder: Path, *known: set[int], num: int = 40) -> list[Path]:
    places = [folder / f"run{place}" for place in range(len(known))]
    for place, some in zip(places, known, strict=True):
        evaluate(task(num), Right(some), place)
    return places


def test_the_difference_is_that_of_the_mean_scores(tmp_path: Path) -> None:
    first = runs(tmp_path / "a", set(range(30)), set(range(20)))
    second = runs(tmp_path / "b", set(range(10)))
    found = compare_scores(task(), first, second)
    assert found.first == (0.75, 0.5)
    assert found.second == (0.25,)
    assert found.difference == pytest.approx(0.375)
    assert found.low < 0.375 < found.high
    assert found.covers == "questions"


def test_equal_answers_leave_no_doubt_about_questions_however_hard_they_are(tmp_path: Path) -> None:
    """Paired: what is easy or hard for both says nothing about their difference."""
    first, second = runs(tmp_path / "a", set(range(20))), runs(tmp_path / "b", set(range(20)))
    found = compare_scores(task(), first, second)
    assert (found.low, found.high) == (0.0, 0.0)


def test_the_interval_over_questions_is_that_of_the_slow_formula(tmp_path: Path) -> None:
    """Groups of two, in which the difference is the same: as many draws as groups."""
    known = {i for i in range(40) if (i // 2) % 3}
    found = compare_scores(task(), runs(tmp_path / "a", known), runs(tmp_path / "b", set()))
    share = len(known) / 40
    error = math.sqrt(share * (1 - share) / 20)
    assert found.high - found.difference == pytest.approx(1.96 * error, rel=0.05)


def test_seeds_that_differ_widen_the_interval(tmp_path: Path) -> None:
    alike = compare_figures("loss", [1.0, 1.01, 0.99], [2.0, 2.01, 1.99])
    apart = compare_figures("loss", [1.0, 1.5, 0.5], [2.0, 2.5, 1.5])
    assert alike.difference == pytest.approx(apart.difference) == pytest.approx(-1.0)
    error = math.sqrt(2 * np.var([1.0, 1.5, 0.5], ddof=1) / 3)
    assert apart.high + 1.0 == pytest.approx(2.776445 * error, rel=1e-5)
    assert alike.high < -0.9 < 0 < apart.high
    assert apart.covers == "seeds"


def test_one_run_of_each_says_nothing_of_seeds() -> None:
    found = compare_figures("loss", [1.0], [2.0])
    assert found.covers == "nothing"
    assert math.isnan(found.low)


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (4, 2.776445), (30, 2.042272)])
def test_points_of_students_t_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t975(freedom) == pytest.approx(expected, rel=1e-4)


def test_runs_of_other_questions_are_refused(tmp_path: Path) -> None:
    first, second = runs(tmp_path / "a", {1}), runs(tmp_path / "b", {1}, num=38)
    lines = (second[0] / "toy" / "predictions.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    with pytest.raises(ValueError, match="answered 38 questions of toy, and not the same ones"):
        compare_scores(task(), first, second)
