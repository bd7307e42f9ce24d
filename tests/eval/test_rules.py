"""By what choices are ranked, and what is counted beside the score."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.sample import Part, Question
from eval.headline import all_right, mean_over
from eval.run import evaluate, read_outcomes, rescore
from eval.task import Answer, Task, with_rule
from eval.truth import letter_match, letters


def asked(number: int, group: str | None = None) -> Question:
    choices = ("cat", "hippopotamus", "dog")
    return Question(str(number), f"q{number}", (Part(text="?"),), {}, choices=choices, answer=number % 3, group=group)


class Ranker:
    """-1 for each letter of a text, and -0.5 more for "dog" and "C": it likes what is short."""

    def __init__(self) -> None:
        self.seen: list[Sequence[str]] = []

    def fingerprint(self) -> str:
        return "ranker"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        raise AssertionError("only ranks")

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        self.seen += candidates
        return [[-len(text) - 0.5 * (text in ("dog", "C")) for text in row] for row in candidates]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) + 1 for text in texts]


PROMPTS = {"llava": "llava/letter", "question": "question"}
TASK = Task(name="t", questions=lambda: [asked(number) for number in range(6)], prompts=PROMPTS)


@pytest.mark.parametrize(
    ("rule", "chosen", "said", "prompt"),
    [
        ("sum", "cat", "sum of log-probabilities incl. end token", "question.txt"),
        ("per-token", "cat", "log-probability per token incl. end token", "question.txt"),
        ("letter", "cat", "sum of log-probabilities of the letter incl. end token", "llava/letter.txt"),
    ],
)
def test_each_rule_is_said_in_the_result_with_its_prompt(
    rule: Any, chosen: str, said: str, prompt: str, tmp_path: Path
) -> None:
    ranker, task = Ranker(), with_rule(TASK, rule)
    result = evaluate(task, ranker, tmp_path)
    assert (result.details["rule"], result.details["prompt"]["file"]) == (said, prompt)
    assert {one.answer for one in read_outcomes(tmp_path, task)} == {chosen}
    assert result.score == 2 / 6
    assert set(ranker.seen) == {("A", "B", "C") if rule == "letter" else ("cat", "hippopotamus", "dog")}


def test_per_token_divides_by_the_tokens_of_each_candidate_and_its_end(tmp_path: Path) -> None:
    task = with_rule(TASK, "per-token")
    evaluate(task, Ranker(), tmp_path)
    assert read_outcomes(tmp_path, task)[0].output == [-3 / 4, -12 / 13, -3.5 / 4]


def test_each_rule_asks_anew_and_keeps_the_answers_of_the_others(tmp_path: Path) -> None:
    ranker = Ranker()
    scores = [evaluate(with_rule(TASK, rule), ranker, tmp_path).details["rule"] for rule in ("sum", "per-token")]
    assert len(ranker.seen) == 12
    assert rescore(tmp_path, with_rule(TASK, "sum")).details["rule"] == scores[0] != scores[1]


def test_a_model_that_cannot_count_tokens_is_told_so(reader: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PictureReader has no count_tokens, which rule per-token divides by"):
        evaluate(with_rule(TASK, "per-token"), reader(), tmp_path)


class Writer:
    """Says the given texts in turn; the second is cut off."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def fingerprint(self) -> str:
        return "writer"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        return [Answer(self.texts[int(q.id[1:])], truncated=q.id == "q1", tokens=3) for q in questions]

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        raise AssertionError("only writes")


def one_letter(text: str, truth: Any) -> str | None:
    return text if text in truth.lettered else None


LETTERS = replace(TASK, extract=one_letter, metric=letter_match, guesses=letters)


def test_unparsed_and_truncated_answers_are_counted_and_kept(tmp_path: Path) -> None:
    result = evaluate(LETTERS, Writer("A", "B", "so C", "A", "A", ""), tmp_path)
    assert (result.score, result.unparsed, result.truncated, result.failed) == (3 / 6, 2 / 6, 1, 0)
    assert rescore(tmp_path, LETTERS) == result
    assert [one.truncated for one in read_outcomes(tmp_path, LETTERS)] == [False, True, False, False, False, False]
    assert '"truncated": true, "tokens": 3' in (tmp_path / "t" / "predictions.jsonl").read_text()


def test_guessing_letters_is_the_chance_of_a_written_choice(tmp_path: Path) -> None:
    result = evaluate(LETTERS, Writer(*"ABCABC"), tmp_path)
    assert (result.score, result.chance, result.majority) == (1.0, pytest.approx(1 / 3), 2 / 6)


def test_chance_and_majority_of_a_headline_are_those_of_the_headline(tmp_path: Path) -> None:
    """Three rotations must all be right: guessing gets one group in 27, one constant letter none."""
    questions = [asked(number, group=f"g{number // 3}") for number in range(300)]
    headline = all_right(lambda one: one.truth.group or "", "circular accuracy")
    task = replace(LETTERS, questions=lambda: questions, headline=headline, group_by=lambda question: question.group)
    result = evaluate(task, Writer(*("ABC" * 50), *("ABB" * 50)), tmp_path)
    assert result.score == 0.5
    assert result.chance == pytest.approx(1 / 27, abs=0.015)
    assert result.majority == 0
    assert result.details["headline"] == {"name": "circular accuracy", "value": 0.5, "scale": 1.0}
    assert result.details["mean_over_questions"] == pytest.approx(5 / 6)
    assert result.details["interval"] == "bootstrap over draws"
    assert 0.39 < result.low < 0.42
    assert 0.58 < result.high < 0.61


def test_an_answer_that_is_no_answer_is_refused(tmp_path: Path) -> None:
    class Odd(Writer):
        def generate(self, questions: Sequence[Question], max_new_tokens: int) -> Any:
            return [3] * len(questions)

    with pytest.raises(ValueError, match=r"Odd.generate gave 3 as an answer; it must be an eval\.task\.Answer"):
        evaluate(TASK, Odd(), tmp_path)


@pytest.mark.slow
def test_ten_thousand_choices_score_in_a_fraction_of_a_minute(tmp_path: Path) -> None:
    """Beyond the model's own time; the slowest headline, with its chance and interval. 5 s of one core when written."""
    questions = [replace(asked(number), category=f"c{number % 20}") for number in range(10_000)]
    headline = mean_over(lambda one: one.category or "", "mean over 20 kinds")
    began = time.process_time()
    task = replace(LETTERS, questions=lambda: questions, headline=headline)
    result = evaluate(task, Writer(*("ABC" * 3334)), tmp_path)
    assert (result.score, result.n) == (1.0, 10_000)
    assert time.process_time() - began < 60
