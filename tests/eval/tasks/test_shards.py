from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.shards import BadShard, write_shard
from eval.report import scores_table
from eval.run import evaluate
from eval.tasks.shards import read_questions, shards_task


def test_any_tar_is_a_task_without_a_manifest(reader: Callable[..., Any], colour_shard: Path, tmp_path: Path) -> None:
    result = evaluate(shards_task(colour_shard, "choose"), reader(), tmp_path / "out")
    assert result.n == 50
    assert (tmp_path / "out" / "shards" / "colours" / "predictions.jsonl").exists()


def test_questions_are_read_by_place_and_by_slice(colour_shard: Path) -> None:
    questions = read_questions(colour_shard, "choose")
    assert [question.id for question in questions[48:]] == ["q48", "q49"]
    assert questions[-1].id == "q49"
    assert len(list(questions)) == len(questions) == 50


def test_bad_records_are_skipped_counted_and_named(
    reader: Callable[..., Any], record: Callable[..., Any], tmp_path: Path
) -> None:
    bad = [
        ("b1", {"json": b"{not json"}),
        ("b2", {"json": b'{"id": "b2", "messages": []}'}),
        ("b3", record(3, choices=None, answer=None, answers=["red"])[1]),
        ("b4", record(4, answer=9)[1]),
        ("b5", record(5, choices=["red", "red"], answer=0)[1]),
    ]
    write_shard(tmp_path / "mixed.tar", [record(1), *bad, record(2)])
    result = evaluate(shards_task(tmp_path / "mixed.tar", "choose"), reader(), tmp_path)
    skipped = result.details["skipped"]
    assert result.n == 2
    assert [key in line for key, line in zip(("b1", "b2", "b3", "b4", "b5"), skipped, strict=True)] == [True] * 5
    assert "needs at least 2 choices" in skipped[2]
    assert "shards/mixed: 5 bad records skipped: record 'b1'" in scores_table({"shards/mixed": result})


def test_a_set_without_any_usable_question_says_why(record: Callable[..., Any], tmp_path: Path) -> None:
    write_shard(tmp_path / "free.tar", [record(n, choices=None, answer=None, answers=["red"]) for n in range(3)])
    with pytest.raises(ValueError, match=r"free\.tar: none of 3 records is a question for mode choose; the first"):
        read_questions(tmp_path / "free.tar", "choose")
    assert len(read_questions(tmp_path / "free.tar", "generate")) == 3


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadShard, match=r"nowhere\.tar"):
        read_questions(tmp_path / "nowhere.tar", "choose")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/data/my set.v1.tar", "shards/my-set-v1"),
        ("a/bench/dataset.json", "shards/bench"),
        ("bench/", "shards/bench"),
        ("x/part-{00..07}.tar", "shards/part-00-07"),
        ("..", "shards/questions"),
        ("https://me:pass@host/sets/mine.tar?token=secret", "shards/mine"),
    ],
)
def test_the_name_of_the_task_is_made_of_the_file_name(source: str, name: str) -> None:
    assert shards_task(source, "choose").name == name


def test_free_answers_are_scored_against_the_one_that_fits_best(
    reader: Callable[..., Any], record: Callable[..., Any], tmp_path: Path
) -> None:
    free: dict[str, Any] = {"choices": None, "answer": None, "answers": ["nothing", "a red green blue grey stripe"]}
    write_shard(tmp_path / "free.tar", [record(n, **free) for n in range(1, 4)])
    result = evaluate(shards_task(tmp_path / "free.tar", "generate"), reader(), tmp_path)
    assert result.score == pytest.approx(2 / 7)
    assert result.details["exact_match"] == 0
