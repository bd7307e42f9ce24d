from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.sample import BadRecord, Question
from data.tokenizer import Tokenizer
from eval.long_context.measure import Measure, demo_measure
from eval.run import evaluate, rescore_kept
from eval.task import Answer, Task, find_task, find_tasks
from eval.tasks.long_context import KINDS, SCORED, count_match, long_task, measured, numbers, share_named
from eval.tasks.long_context import named as named_tasks
from eval.truth import Truth


class Knows:
    """Says what is true to some of the questions, and is cut off once."""

    def __init__(self, task: Any, wrong_from: int = 100, refuse: str = "") -> None:
        self.answers = {question.id: question.answers[0] for question in task.questions()}
        self.wrong_from, self.refuse = wrong_from, refuse

    def fingerprint(self) -> str:
        return f"knows-{self.wrong_from}{self.refuse}"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        if self.refuse and any(one.id.endswith(self.refuse) for one in questions):
            raise BadRecord(f"{questions[0].id}: the prompt takes 600 positions, but the model has 512")
        told = []
        for one in questions:
            right = int(one.id[-3:]) < self.wrong_from
            told.append(Answer(f"It is {self.answers[one.id]}." if right else "", truncated=one.id.endswith("-030")))
        return told

    def score(self, questions: Any, candidates: Any) -> list[list[float]]:
        raise AssertionError("long context is written, not chosen")


def some(kind: str) -> Task:
    """Ten of the questions, two of each depth, made once."""
    task = long_task(kind, 512)
    kept = task.questions()[::10]
    return replace(task, questions=lambda: kept)


@pytest.mark.parametrize("kind", KINDS)
def test_who_knows_gets_all_and_who_is_silent_is_unparsed(kind: str, tmp_path: Path) -> None:
    task = some(kind)
    result = evaluate(task, Knows(task, wrong_from=60), tmp_path, blind_limit=0)
    assert (result.score, result.n, result.unparsed, result.truncated) == (0.6, 10, 0.4, 1)
    assert result.chance < 0.3
    assert result.majority <= 0.5
    told = result.details["by_depth"]
    assert told["length"] == 512
    assert 450 < told["mean_tokens"] < 512
    if kind == "aggregate":
        assert "scores" not in told
    else:
        # The needle of the last question that is known stands a little before or behind the edge of its row.
        assert told["scores"][0] == 1
        assert told["scores"][4] == 0
        assert sum(told["counts"]) == 10
    assert rescore_kept(tmp_path, task).score == 0.6


def test_a_prompt_beyond_the_model_is_a_counted_failure_and_no_shorter_prompt(tmp_path: Path) -> None:
    task = some("retrieve-one")
    result = evaluate(task, Knows(task, refuse="-070"), tmp_path, blind_limit=0)
    assert (result.n, result.failed) == (9, 1)
    assert "the prompt takes 600 positions" in result.details["skipped"][0]


def test_a_length_beyond_the_model_ends_with_its_reason(tmp_path: Path) -> None:
    class Short(Knows):
        def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
            raise BadRecord(f"{questions[0].id}: the prompt takes 496 positions, but the model has 256")

    task = some("retrieve-one")
    with pytest.raises(ValueError, match=r"no question could be scored; .* the model has 256"):
        evaluate(task, Short(task), tmp_path)


def test_names_with_a_length_need_no_list() -> None:
    assert find_task("long/trace@777").name == "long/trace@777"
    assert [task.name for task in find_tasks("long@600")] == [f"long/{kind}@600" for kind in KINDS]
    assert [task.name for task in find_tasks("long/trace")] == [f"long/trace@{n}" for n in (1024, 4096, 16384)]
    assert len(find_tasks("long,long/trace@1024")) == 21
    assert named_tasks("demo") is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("long/trace@", "stands a length in tokens, such as long/trace@4096"),
        ("long/trace@4k", "stands a length"),
        ("long/trace@-5", "stands a length"),
        ("long@٣٣٣٣", "stands a length"),
        ("long/trace@99", "at least 512"),
        ("long/tracing@1024", "did you mean long/trace@1024"),
        ("demo/presence@1024", "unknown task"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_tasks(name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[2, 1, 3]", "2, 1, 3"),
        ("[2,1,3]", "2, 1, 3"),
        ("Two in the first, then one, and 10.", "2, 1, 10"),
        ("none", None),
        ("", None),
        ("someone", None),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_counts_are_read_from_lists_and_words(text: str, found: str | None) -> None:
    assert numbers(text) == found


def test_part_of_a_list_earns_its_part() -> None:
    truth = Truth("q", ("[2, 1, 3, 4]",), meta={"wanted": ["2", "1", "3", "4"]})
    assert count_match("2, 1, 5, 4", truth) == 0.75
    assert count_match("2", truth) == 0.25
    assert share_named("2 and 13", Truth("q", meta={"wanted": ["2", "1"]})) == 0.5
    extract, metric = SCORED["aggregate"]
    names = Truth("q", ("fox, red apple, cup",), meta={"wanted": ["fox", "red apple", "cup"]})
    assert metric(extract("cup\nFoxes\nRed apple", names) or "", names) == pytest.approx(2 / 3)


def test_another_measure_makes_other_lengths_and_leaves_other_tasks_alone() -> None:
    class Wordy(Tokenizer):
        """Takes two tokens for one."""

        def encode(self, text: str) -> list[int]:
            return [token for token in super().encode(text) for _ in range(2)]

    twice = Measure(Wordy("demo"), demo_measure().layout)
    task = long_task("retrieve-one", 1024)
    plain, longer = task.questions()[5], measured(task, lambda: twice).questions()[5]
    size = [len(demo_measure().tokenizer.encode(one.content[0].text or "")) for one in (plain, longer)]
    assert 0.45 < size[1] / size[0] < 0.55
    assert plain.answers == longer.answers
    demo = replace(find_task("demo/presence"))
    assert measured(demo, demo_measure) is demo
