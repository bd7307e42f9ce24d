"""Scoring again when the questions and their pictures are gone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.sample import Part, Question
from eval.plan import make_plan
from eval.plan_file import read_plan, write_plan
from eval.run import evaluate, kept_outcomes, read_outcomes, rescore, rescore_kept
from eval.task import Task, with_rule
from eval.tasks.shards import shards_task


def test_a_run_is_scored_again_without_its_questions(
    reader: Callable[..., Any], colour_shard: Path, tmp_path: Path
) -> None:
    for mode in ("choose", "generate"):
        task = shards_task(colour_shard, mode, name=mode)  # type: ignore[arg-type]
        result = evaluate(task, reader(wrong_every=5), tmp_path, blind_limit=20)
        for blind in (False, True):
            assert kept_outcomes(tmp_path, task, blind) == read_outcomes(tmp_path, task, blind)
        gone = replace(task, questions=lambda: pytest.fail("the questions were read"))
        assert rescore_kept(tmp_path, gone) == result == rescore(tmp_path, task)


def test_a_plan_is_kept_whole(colour_shard: Path, tmp_path: Path) -> None:
    box = Question("k", "q", (Part(text="Where?"),), {}, box=(0.0, 0.5, 2.0, 3.0), meta={"hint": "é", "n": [1, 2.5]})
    first = Question("l", "r", (Part(text="?"),), {}, choices=("a", "b"), answer=0, category="c", group="g")
    task = Task(name="t", questions=lambda: [box, first], group_by=lambda question: question.group)
    plan = make_plan(task, "m", None)
    write_plan(tmp_path, plan)
    kept = read_plan(tmp_path, task)
    assert (kept.asked, kept.prompt_hash, kept.questions_hash) == (plan.asked, plan.prompt_hash, plan.questions_hash)


def test_another_prompt_or_rule_than_that_of_the_run_is_refused(
    reader: Callable[..., Any], colour_shard: Path, tmp_path: Path
) -> None:
    task = shards_task(colour_shard, "choose")
    with pytest.raises(ValueError, match=r"no run of task shards/colours .*asked\.jsonl is missing"):
        rescore_kept(tmp_path, task)
    evaluate(task, reader(), tmp_path)
    for other in (replace(task, prompt="{question}!"), with_rule(task, "per-token")):
        with pytest.raises(ValueError, match="was asked with another prompt, mode, rule or length than it has now"):
            rescore_kept(tmp_path, other)
    path = tmp_path / task.name / "asked.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"asked\.jsonl is not what an evaluation writes"):
        rescore_kept(tmp_path, task)
