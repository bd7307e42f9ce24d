import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.sample import BadRecord, Question
from data.shards import write_shard
from eval.intervals import wilson
from eval.run import evaluate, read_outcomes, rescore
from eval.task import Task
from eval.tasks.shards import shards_task

# A conftest cannot be imported by name under importmode=importlib, so its two tools come as fixtures.


@pytest.fixture
def choose(colour_shard: Path) -> Task:
    return shards_task(colour_shard, "choose")


@pytest.fixture
def generate(colour_shard: Path) -> Task:
    return shards_task(colour_shard, "generate", max_new_tokens=4)


def lines(folder: Path, task: Task) -> list[dict[str, Any]]:
    text = (folder / task.name / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_choice_is_scored_as_by_hand(reader: Callable[..., Any], choose: Task, tmp_path: Path) -> None:
    result = evaluate(choose, reader(wrong_every=4), tmp_path)
    right = sum(number % 4 != 0 for number in range(50))
    answers = Counter(question.truth for question in choose.questions())
    assert (result.score, result.n) == (right / 50, 50)
    assert (result.low, result.high) == (wilson(right / 50, 50).low, wilson(right / 50, 50).high)
    assert (result.chance, result.majority) == (0.25, max(answers.values()) / 50)
    assert result.unparsed == 0
    assert result.details["rule"] == "sum of log-probabilities incl. end token"
    assert result.details["by_category"] == {"even": {"score": 12 / 25, "n": 25}, "odd": {"score": 1.0, "n": 25}}


def test_the_blind_run_gets_the_same_words_and_no_picture(
    reader: Callable[..., Any], choose: Task, tmp_path: Path
) -> None:
    task = replace(choose, prompt="Look! {question} Say it.")
    answerer = reader()
    result = evaluate(task, answerer, tmp_path, blind_limit=None)
    seeing, blind = answerer.asked[:50], answerer.asked[50:]
    assert [question.content[1:] for question in seeing] == [question.content for question in blind]
    assert all(question.images == {} and all(part.image is None for part in question.content) for question in blind)
    by_hash = [
        hashlib.sha256((question.content[0].text or "").encode()).digest()[0] % 4 == question.answer
        for question in blind
    ]
    assert result.blind == sum(by_hash) / 50
    assert blind[0].content[0].text == "Look! Which colour, 0? Say it."


def test_the_blind_run_takes_a_seeded_subset(reader: Callable[..., Any], choose: Task, tmp_path: Path) -> None:
    few, more = reader(), reader()
    result = evaluate(choose, few, tmp_path / "few", blind_limit=10)
    evaluate(choose, more, tmp_path / "more", blind_limit=20)
    ids_of_few = {question.id for question in few.asked[50:]}
    assert (len(ids_of_few), result.details["blind"]["n"]) == (10, 10)
    assert ids_of_few < {question.id for question in more.asked[50:]}
    assert ids_of_few != {f"q{number}" for number in range(10)}


def test_questions_without_pictures_and_a_limit_of_0_have_no_blind_score(
    reader: Callable[..., Any], record: Callable[..., Any], choose: Task, tmp_path: Path
) -> None:
    text_only = [{"type": "text", "text": "Which?"}]
    write_shard(tmp_path / "text.tar", [record(number, content=text_only) for number in range(3)])
    assert evaluate(shards_task(tmp_path / "text.tar", "choose"), reader(), tmp_path).blind is None
    assert evaluate(choose, reader(), tmp_path, blind_limit=0).blind is None


@pytest.mark.parametrize("mode", ["choose", "generate"])
def test_a_killed_run_goes_on_where_it_stopped(
    reader: Callable[..., Any], colour_shard: Path, tmp_path: Path, mode: Any
) -> None:
    task = shards_task(colour_shard, mode)
    whole = evaluate(task, reader(), tmp_path / "whole", batch_size=8)
    broken = reader(fail_after=9)  # 7 batches with pictures, then 2 blind ones
    with pytest.raises(RuntimeError, match="the machine stopped"):
        evaluate(task, broken, tmp_path / "broken", batch_size=8)
    path = tmp_path / "broken" / task.name / "predictions.jsonl"
    with path.open("ab") as file:
        file.write(b'{"id": "q17", "blind": true, "key": "0123')
    going_on = reader()
    result = evaluate(task, going_on, tmp_path / "broken", batch_size=8)
    assert replace(result, details={}) == replace(whole, details={})
    assert len(going_on.asked) == 100 - 9 * 8 + 6  # the seventh batch had 2 questions
    assert Counter((line["id"], line["blind"]) for line in lines(tmp_path / "broken", task)).most_common(1)[0][1] == 1


def test_a_finished_run_asks_nothing_again(reader: Callable[..., Any], choose: Task, tmp_path: Path) -> None:
    first = evaluate(choose, reader(), tmp_path)
    again = reader()
    second = evaluate(choose, again, tmp_path)
    assert again.calls == 0
    assert replace(second, details={}) == replace(first, details={})


def test_another_model_prompt_picture_or_limit_is_asked_anew(
    reader: Callable[..., Any], record: Callable[..., Any], colour_shard: Path, tmp_path: Path
) -> None:
    def asked_again(task: Task, name: str = "reader") -> int:
        answerer = reader(name=name)
        evaluate(task, answerer, tmp_path, blind_limit=0)
        return len(answerer.asked)

    task = shards_task(colour_shard, "generate")
    assert asked_again(task) == 50
    assert asked_again(task, name="retrained") == 50
    assert asked_again(replace(task, prompt="{question}!")) == 50
    assert asked_again(replace(task, max_new_tokens=5)) == 50
    write_shard(colour_shard, [record(n, picture=b"red 3" if n == 7 else None) for n in range(50)])
    assert asked_again(task) == 1
    assert asked_again(task) == 0


def test_rescoring_needs_no_model_and_takes_a_new_metric(
    reader: Callable[..., Any], generate: Task, tmp_path: Path
) -> None:
    result = evaluate(generate, reader(wrong_every=5), tmp_path)
    assert rescore(tmp_path, generate) == result
    unread = rescore(tmp_path, replace(generate, extract=lambda text, truth: None if "red" in text else text.strip()))
    assert unread.unparsed == sum("red" in one.output for one in read_outcomes(tmp_path, generate)) / 50 > 0
    assert unread.score < result.score


def test_rescoring_what_was_not_run_or_not_finished_says_so(
    reader: Callable[..., Any], choose: Task, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no run of task .*run\.json is missing"):
        rescore(tmp_path, choose)
    with pytest.raises(RuntimeError):
        evaluate(choose, reader(fail_after=1), tmp_path, batch_size=20)
    with pytest.raises(ValueError, match=r"30 of 50 answers are missing \(first: 'q20'\)"):
        rescore(tmp_path, choose)


def test_generated_answers_are_scored_by_their_first_line(
    reader: Callable[..., Any], generate: Task, tmp_path: Path
) -> None:
    result = evaluate(generate, reader(wrong_every=5), tmp_path)
    assert result.score == result.details["exact_match"] == 0.8
    assert result.details["rule"] == "first_line, best_token_f1"
    outcome = read_outcomes(tmp_path, generate)[0]
    assert (outcome.answer, outcome.id, outcome.score) == ("green", "q0", 0.0)
    # A colour drawn from the other questions, and the best colour for all.
    truths = [question.truth for question in generate.questions()]
    alike = sum(a == b for i, a in enumerate(truths) for j, b in enumerate(truths) if i != j) / (50 * 49)
    assert result.chance == pytest.approx(alike, abs=0.03)
    assert result.majority == max(Counter(truths).values()) / 50


def test_questions_of_one_group_count_as_one_draw(
    reader: Callable[..., Any], record: Callable[..., Any], choose: Task, tmp_path: Path
) -> None:
    # Ten questions at a time are all right or all wrong, as if they were about one picture.
    write_shard(tmp_path / "g.tar", [record(n, picture=_luck(n), group=f"g{n // 10}") for n in range(100)])
    result = evaluate(shards_task(tmp_path / "g.tar", "choose"), reader(), tmp_path)
    naive = wilson(result.score, result.n)
    assert result.details["interval"] == "bootstrap over groups"
    assert result.high - result.low > 1.5 * (naive.high - naive.low)


def _luck(number: int) -> bytes:
    colour = ("red", "green", "blue", "grey")[(number * 7 + number // 5) % 4]
    return f"{colour} {0 if (number // 10) % 2 else 1}".encode()


class Odd:
    """An answerer with a fault."""

    def __init__(self, texts: Any = None, rows: Any = None) -> None:
        self.texts, self.rows = texts, rows

    def fingerprint(self) -> str:
        return "odd"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        return self.texts

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        return self.rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.0, 0.0, 0.0, 0.0]] * 2, "Odd gave 2 rows of scores; 50 questions need one each"),
        ([[0.0, 0.0]] * 50, "Odd gave 2 scores for 'q0'; 4 candidates need one each"),
        ([[0.0, float("nan"), 0.0, 0.0]] * 50, "gave nan for candidate 'green' of question 'q0'"),
        ([[0.0, 0.0, 0.0, float("-inf")]] * 50, "gave -inf for candidate 'grey'"),
    ],
)
def test_scores_that_cannot_be_ranked_are_an_error(choose: Task, tmp_path: Path, rows: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(choose, Odd(rows=rows), tmp_path)
    assert lines(tmp_path, choose) == []


def test_a_wrong_number_of_texts_is_an_error(generate: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Odd gave 1 answers; 50 questions need one each"):
        evaluate(generate, Odd(texts=["a"]), tmp_path)


def test_a_picture_that_cannot_be_decoded_is_skipped_counted_and_named(
    reader: Callable[..., Any], record: Callable[..., Any], colour_shard: Path, choose: Task, tmp_path: Path
) -> None:
    class Fussy:
        def __init__(self) -> None:
            self.reader = reader()

        def fingerprint(self) -> str:
            return "fussy"

        def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
            raise AssertionError("not asked to")

        def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
            if any(b" 8" in picture for question in questions for picture in question.images.values()):
                raise BadRecord("picture 0.png is no PNG")
            return self.reader.score(questions, candidates)

    result = evaluate(choose, Fussy(), tmp_path, batch_size=16, blind_limit=None)
    assert (result.n, result.score, result.details["blind"]["n"]) == (49, 37 / 49, 49)
    assert result.details["skipped"] == ["question 'q8': picture 0.png is no PNG"]
    again = Fussy()
    assert replace(evaluate(choose, again, tmp_path, blind_limit=None), details={}) == replace(result, details={})
    assert again.reader.calls == 0

    write_shard(colour_shard, [record(n, picture=b"red 3" if n == 8 else None) for n in range(50)])
    repaired = evaluate(choose, Fussy(), tmp_path, blind_limit=None)
    assert (repaired.n, repaired.details["blind"]["n"], repaired.details["skipped"]) == (50, 50, [])


def test_an_unreadable_line_inside_the_file_is_named(reader: Callable[..., Any], choose: Task, tmp_path: Path) -> None:
    evaluate(choose, reader(), tmp_path)
    path = tmp_path / choose.name / "predictions.jsonl"
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*kept[:3], "garbage\n", *kept[3:]]))
    with pytest.raises(ValueError, match=r"predictions\.jsonl: line 4 is not a prediction"):
        evaluate(choose, reader(), tmp_path)


def test_progress_counts_every_question_to_the_end(reader: Callable[..., Any], choose: Task, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(choose, reader(), tmp_path, blind_limit=10, batch_size=25, progress=lambda *told: seen.append(told))
    assert seen == [(choose.name, 25, 60), (choose.name, 50, 60), (choose.name, 60, 60)]
