from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.sample import Part, Question
from data.shards import write_shard
from eval.plan import make_plan
from eval.run import evaluate
from eval.task import Task
from eval.tasks.shards import shards_task


@pytest.fixture
def choose(colour_shard: Path) -> Task:
    return shards_task(colour_shard, "choose")


def own_choices(number: int) -> Question:
    picked = tuple(f"{word}{number}" for word in "abcd")
    return Question(str(number), f"q{number}", (Part(text="?"),), {}, choices=picked, answer=0 if number < 6 else 2)


def test_two_questions_of_one_id_are_an_error_before_the_first_batch(
    reader: Callable[..., Any], record: Callable[..., Any], tmp_path: Path
) -> None:
    write_shard(tmp_path / "twice.tar", [record(1), record(2, id="q1")])
    answerer = reader()
    with pytest.raises(ValueError, match="id 'q1' is used by records 00001 and 00002"):
        evaluate(shards_task(tmp_path / "twice.tar", "choose"), answerer, tmp_path)
    assert answerer.calls == 0


def test_an_answer_out_of_range_is_an_error_before_the_first_batch(reader: Callable[..., Any], tmp_path: Path) -> None:
    wrong = replace(own_choices(3), answer=4)
    task = Task(name="own", questions=lambda: [own_choices(1), wrong], mode="choose")
    answerer = reader()
    with pytest.raises(ValueError, match=r"question 'q3' \(record 3\): answer is 4, but there are 4 choices"):
        evaluate(task, answerer, tmp_path)
    assert answerer.calls == 0


def test_no_questions_and_bad_settings_are_errors(reader: Callable[..., Any], choose: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task none has no questions"):
        evaluate(Task(name="none", questions=list), reader(), tmp_path)
    with pytest.raises(ValueError, match="blind_limit is -1"):
        evaluate(choose, reader(), tmp_path, blind_limit=-1)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluate(choose, reader(), tmp_path, batch_size=0)


def test_the_hash_of_the_questions_sees_their_right_answers(choose: Task) -> None:
    questions = list(choose.questions())
    changed = [replace(questions[0], answer=(questions[0].answer or 0) ^ 1), *questions[1:]]
    one, other = make_plan(choose, "m", None), make_plan(replace(choose, questions=lambda: changed), "m", None)
    assert one.questions_hash != other.questions_hash
    assert [asked.key for asked in one.asked] == [asked.key for asked in other.asked]


def test_the_blind_run_keeps_groups_whole(colour_shard: Path, choose: Task) -> None:
    paired = replace(choose, group_by=lambda question: f"pair {int(question.id[1:]) // 2}")
    for limit in (1, 2, 7, 20, 50, None):
        kept = [int(asked.id[1:]) for asked in make_plan(paired, "m", limit).asked if asked.blind_key is not None]
        assert len(kept) == {1: 1, 2: 2, 7: 6, 20: 20, 50: 50, None: 50}[limit]
        if limit != 1:
            assert all((number ^ 1) in kept for number in kept)
