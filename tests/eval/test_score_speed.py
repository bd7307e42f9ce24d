import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from data.sample import Part, Question
from eval.answers import infer_choice
from eval.run import evaluate, rescore
from eval.task import Task

NUMBER = 10_000
LETTERS = dict(zip("ABCD", ("cat", "dog", "bird", "fish"), strict=True))


class ThirdChoice:
    """Answers at once, so that all the time is ours."""

    def fingerprint(self) -> str:
        return "third"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        return ["The answer is (C)."] * len(questions)

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[-2.0, -2.0, -1.0, -2.0] for _ in questions]


def make_question(number: int, choose: bool) -> Question:
    return Question(
        key=str(number),
        id=f"q{number}",
        content=(Part(image="0.png"), Part(text=f"Which is number {number}?")),
        images={"0.png": number.to_bytes(4, "big") * 5000},
        choices=tuple(LETTERS.values()) if choose else (),
        answer=number % 4 if choose else None,
        answers=() if choose else ("ABCD"[number % 4],),
        category=f"subject {number % 30}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("choose", [True, False], ids=["scored choices", "written letters"])
def test_10000_choice_questions_are_scored_in_under_a_minute_beside_the_models_time(
    choose: bool, tmp_path: Path
) -> None:
    questions = [make_question(number, choose) for number in range(NUMBER)]
    task = Task(
        name="speed",
        questions=lambda: questions,
        mode="choose" if choose else "generate",
        extract=lambda response, truth: infer_choice(response, LETTERS),
    )
    began = time.process_time()
    result = evaluate(task, ThirdChoice(), tmp_path)
    rescore(tmp_path, task)
    assert time.process_time() - began < 60
    assert (result.score, result.n, result.unparsed) == (0.25, NUMBER, 0.0)
