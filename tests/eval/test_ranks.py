"""Several processes share a task: the same scores, whatever their number, and whoever dies."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.sample import Question
from eval.predictions import read_predictions
from eval.ranks import Place, parts, writer
from eval.run import answer_share, evaluate
from eval.task import Task
from eval.tasks.shards import shards_task


@pytest.fixture
def task(colour_shard: Path) -> Task:
    return shards_task(colour_shard, "choose")


def work(task: Task, answerer: Any, folder: Path, rank: int, world: int, batch_size: int) -> None:
    """One process of an evaluation, as `vlm eval` runs it under torchrun."""
    if rank:
        answer_share(task, answerer, folder, Place(rank, world), None, batch_size)
    else:
        evaluate(task, answerer, folder, None, batch_size, world=world)


def start(*arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def kept(folder: Path, task: Task) -> dict[str, Any]:
    result = json.loads((folder / task.name / "result.json").read_text())
    result["details"].pop("seconds")
    return result  # type: ignore[no-any-return]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_give_the_scores_of_one_process(
    reader: Callable[..., Any], task: Task, tmp_path: Path, world: int
) -> None:
    evaluate(task, reader(), tmp_path / "one", None)
    ranks = [start(task, reader(), tmp_path / "many", rank, world, 4) for rank in reversed(range(world))]
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * world
    assert kept(tmp_path / "many", task) == kept(tmp_path / "one", task)
    folder = tmp_path / "many" / task.name
    assert not parts(folder)
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(read_predictions(folder / "predictions.jsonl")) == 100  # each asked once, seeing and blind


class SlowReader:
    """A reader that takes its time, so that it can be killed at work."""

    def __init__(self, inner: Any, pause_s: float) -> None:
        self._inner, self._pause_s = inner, pause_s

    def fingerprint(self) -> str:
        return str(self._inner.fingerprint())

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> Any:
        return self._inner.generate(questions, max_new_tokens)

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> Any:
        time.sleep(self._pause_s)
        return self._inner.score(questions, candidates)


def test_a_rank_that_is_killed_is_named_and_another_number_of_ranks_goes_on(
    reader: Callable[..., Any], task: Task, tmp_path: Path
) -> None:
    evaluate(task, reader(), tmp_path / "one", None)
    folder = tmp_path / "many"
    slow = start(task, SlowReader(reader(), 0.05), folder, 1, 2, 1)
    part = folder / task.name / "predictions.rank-1.jsonl"
    while not (part.exists() and part.read_text().count("\n") > 3):
        time.sleep(0.01)
    os.kill(slow.pid, signal.SIGKILL)
    slow.join(10)
    answered = len(read_predictions(part))
    assert 3 < answered < 50
    with pytest.raises(ValueError, match=r"rank 1 has not answered \d+ of its questions .* goes on where it stopped"):
        evaluate(task, reader(), folder, None, world=2, patience_s=0.5)
    again = reader()
    evaluate(task, again, folder, None)
    assert len(again.asked) == 50 - answered  # rank 0's share of 50 was done as well: 25 questions, seeing and blind
    assert kept(folder, task) == kept(tmp_path / "one", task)


def test_two_evaluations_of_one_folder_do_not_mix(reader: Callable[..., Any], task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "out" / task.name
    with writer(folder, Place()), pytest.raises(ValueError, match="is being written by another evaluation"):
        evaluate(task, reader(), tmp_path / "out", None)


def test_a_bad_record_of_another_rank_is_not_waited_for(reader: Callable[..., Any], task: Task, tmp_path: Path) -> None:
    from data.sample import BadRecord

    class Strict(reader):  # type: ignore[misc,valid-type]
        def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> Any:
            if any(question.id == "q7" for question in questions):
                raise BadRecord("question q7: its picture cannot be decoded")
            return super().score(questions, candidates)

    ranks = [start(replace(task), Strict(), tmp_path, rank, 2, 4) for rank in (1, 0)]
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert (kept(tmp_path, task)["n"], kept(tmp_path, task)["failed"]) == (49, 1)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "1")])
def test_an_environment_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str, world: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ValueError, match="needed 0 <= RANK < WORLD_SIZE"):
        Place.from_environment()
