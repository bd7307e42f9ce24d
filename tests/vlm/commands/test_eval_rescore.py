"""`vlm eval rescore`: kept answers scored again by what the code and the run's right answers say now."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.sample import Question
from eval.as_asked import finished, task_as_asked
from eval.report import write_scores
from eval.run import evaluate, rescore_kept
from eval.task import Answer, Task, find_task, with_prompt, with_rule
from eval.tasks.long_context import SCORED, long_task
from eval.tasks.text import text_task

Vlm = Callable[..., tuple[int, str, str]]


class Hashed:
    """Says and ranks by a hash of question and answer: no more than a reader that is sometimes right."""

    def fingerprint(self) -> str:
        return "hashed"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        return [
            Answer((*one.answers, *one.choices)[0] if hashlib.sha256(one.id.encode()).digest()[0] < 128 else "no idea")
            for one in questions
        ]

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        return [
            [-1 - hashlib.sha256(f"{one.id}{text}".encode()).digest()[0] / 256 for text in listed]
            for one, listed in zip(questions, candidates, strict=True)
        ]


def few(task: Task, count: int = 6) -> Task:
    kept = task.questions()[:count]
    return replace(task, questions=lambda: kept)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "words.txt").write_text("One text.\n" * 20)
    tasks = [few(long_task("retrieve-one", 777)), few(find_task("demo/presence")), text_task(folder / "words.txt")]
    write_scores(
        folder / "run" / "scores.json",
        {task.name: evaluate(task, Hashed(), folder / "run", blind_limit=2) for task in tasks},
    )
    return folder / "run"


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def test_scores_of_every_kind_of_task_come_out_as_they_were(vlm: Vlm, run: Path) -> None:
    files = [*run.rglob("result.json"), run / "scores.json"]
    before = [file.read_text() for file in files]
    code, out, err = vlm("eval", "rescore", str(run))
    assert (code, err) == (0, "")
    assert "no score has changed" in out
    assert [file.read_text() for file in files] == before
    assert sorted(finished(run)) == ["demo/presence", "long/retrieve-one@777", "text/words-txt"]


def test_a_changed_rule_of_reading_changes_the_score_and_only_of_the_task_that_is_named(
    vlm: Vlm, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((run / "scores.json").read_text())
    # As after an update of the code: every text is now read as right.
    monkeypatch.setitem(SCORED, "retrieve-one", (lambda text, truth: truth.targets[0], lambda answer, truth: 1.0))
    code, out, err = vlm("eval", "rescore", str(run), "--tasks", "long/retrieve-one@777", "--json")
    assert code == 0, err
    after = json.loads((run / "scores.json").read_text())
    assert json.loads(out) == {"long/retrieve-one@777": after["long/retrieve-one@777"]}
    assert before["long/retrieve-one@777"]["score"] < after["long/retrieve-one@777"]["score"] == 1.0
    assert after["demo/presence"] == before["demo/presence"]


def test_a_group_stands_for_what_is_there_of_it(vlm: Vlm, run: Path) -> None:
    code, out, err = vlm("eval", "rescore", str(run), "--tasks", "demo,long/retrieve-one@777", "--json")
    assert code == 0, err
    assert list(json.loads(out)) == ["demo/presence", "long/retrieve-one@777"]
    code, _, err = vlm("eval", "rescore", str(run), "--tasks", "mmmu-pro")
    assert (code, "mmmu-pro has no finished evaluation" in err) == (2, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda task: task,
        lambda task: with_rule(task, "per-token"),
        lambda task: with_rule(with_prompt(task, "llava"), "letter"),
        lambda task: with_prompt(task, "official"),
    ],
)
def test_a_task_is_found_as_it_was_asked(change: Callable[[Task], Task], tmp_path: Path) -> None:
    questions = find_task("demo/presence").questions()[:6]
    task = replace(change(find_task("realworldqa")), questions=lambda: questions)
    reader: Any = Hashed()
    reader.count_tokens = lambda texts: [len(text) for text in texts]
    result = evaluate(task, reader, tmp_path, blind_limit=0)
    found = task_as_asked(tmp_path, task.name)
    assert (found.prompt, found.rule, found.mode) == (task.prompt, task.rule, task.mode)
    assert rescore_kept(tmp_path, found) == result


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: shutil.rmtree(run / "demo" / "presence"), "demo/presence has no finished evaluation"),
        (
            lambda run: (run / "demo/presence/result.json").write_text("{"),
            "has no finished evaluation of demo/presence",
        ),
        (lambda run: (run / "demo/presence/predictions.jsonl").write_text(""), "6 of 6 answers are missing"),
        (lambda run: shutil.rmtree(run), "is no folder"),
    ],
)
def test_what_is_not_there_is_said_and_nothing_is_written(
    vlm: Vlm, run: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    scores = (run / "scores.json").read_text()
    spoil(run)
    code, _, err = vlm("eval", "rescore", str(run), "--tasks", "demo/presence")
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1
    assert not run.exists() or (run / "scores.json").read_text() == scores
