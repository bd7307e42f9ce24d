from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.sample import Part, Question
from eval.metrics import best_token_f1
from eval.run import evaluate
from eval.task import Task
from eval.truth import against_answers


def own_choices(number: int) -> Question:
    picked = tuple(f"{word}{number}" for word in "abcd")
    return Question(str(number), f"q{number}", (Part(text="?"),), {}, choices=picked, answer=0 if number < 6 else 2)


def test_without_common_choices_the_majority_is_the_most_frequent_place(
    reader: Callable[..., Any], tmp_path: Path
) -> None:
    task = Task(name="own", questions=lambda: [own_choices(number) for number in range(10)], mode="choose")
    result = evaluate(task, reader(), tmp_path)
    assert (result.majority, result.chance) == (0.6, 0.25)


def test_equal_scores_take_the_first_candidate_and_are_counted(reader: Callable[..., Any], tmp_path: Path) -> None:
    task = Task(name="own", questions=lambda: [own_choices(number) for number in range(10)], mode="choose")
    result = evaluate(task, reader(), tmp_path)  # knows none of these candidates: all score alike
    assert (result.score, result.details["ties"]) == (0.6, 10)


def test_the_best_constant_caption_is_found_among_all_answers(reader: Callable[..., Any], tmp_path: Path) -> None:
    captions = [("a red car",), ("a red bus",), ("a green bus",), ("fog", "mist")]
    questions = [Question(str(i), f"q{i}", (Part(text="?"),), {}, answers=c) for i, c in enumerate(captions)]
    result = evaluate(
        Task(name="cap", questions=lambda: questions, metric=against_answers(best_token_f1)), reader(), tmp_path
    )
    by_hand = [
        sum(best_token_f1(a, targets) for targets in captions) / 4 for a in ("a red car", "a red bus", "a green bus")
    ]
    assert result.majority == pytest.approx(max(by_hand))
