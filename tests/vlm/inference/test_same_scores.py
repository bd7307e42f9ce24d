"""Scores of a model do not hang on how its questions are asked: batch, processes, a kill in the middle."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.sample import Question
from eval.ranks import Place
from eval.run import answer_share, evaluate
from eval.task import Task
from vlm.inference.answer import ModelAnswerer
from vlm.model import VisionLanguageModel

COLOURS = ("red", "green", "blue", "grey")


@pytest.fixture
def questions(make_question: Callable[..., Question]) -> list[Question]:
    return [
        make_question(
            f"What is this, {'really ' * (number % 5)}number {number}?",
            *[COLOURS[(number + i) % 4] for i in range(number % 3)],
            id=f"q{number}",
            choices=COLOURS,
            answer=number % 4,
            answers=(COLOURS[number % 4],),
        )
        for number in range(24)
    ]


def outputs(folder: Path, task: Task) -> dict[str, Any]:
    """What was said, and the score; sums of log-probabilities as the order that they give, best first."""
    said = {}
    for line in (folder / task.name / "predictions.jsonl").read_text().splitlines():
        record = json.loads(line)
        out = record["output"]
        said[record["id"], record["blind"]] = (
            out if isinstance(out, str) else tuple(sorted(range(len(out)), key=lambda i: -out[i]))
        )
    result = json.loads((folder / task.name / "result.json").read_text())
    return {"said": said, **{name: result[name] for name in ("score", "low", "high", "blind", "n", "unparsed")}}


@pytest.mark.long
@pytest.mark.parametrize("mode", ["choose", "generate"])
def test_scores_are_the_same_by_one_or_sixteen_by_two_ranks_and_after_a_kill(
    model: VisionLanguageModel, questions: list[Question], tmp_path: Path, mode: Any
) -> None:
    task = Task(name="colours", questions=lambda: questions, mode=mode, max_new_tokens=6)
    evaluate(task, ModelAnswerer(model), tmp_path / "sixteen", None, batch_size=16)
    expected = outputs(tmp_path / "sixteen", task)
    assert len(set(expected["said"].values())) > 1  # a model that says one thing would prove nothing
    evaluate(task, ModelAnswerer(model, token_budget=1), tmp_path / "one", None, batch_size=1)
    assert outputs(tmp_path / "one", task) == expected

    # The second of two ranks first, then the first: in the other order it would wait.
    answer_share(task, ModelAnswerer(model), tmp_path / "ranks", Place(1, 2), None, batch_size=5)
    evaluate(task, ModelAnswerer(model), tmp_path / "ranks", None, batch_size=3, world=2)
    assert outputs(tmp_path / "ranks", task) == expected

    class Killed(ModelAnswerer):
        """Stops after two batches, as a machine does: what was written before stays."""

        calls = 0

        def _count(self) -> None:
            Killed.calls += 1
            if Killed.calls > 2:
                raise KeyboardInterrupt

        def generate(self, questions: Sequence[Question], max_new_tokens: int) -> Any:
            self._count()
            return super().generate(questions, max_new_tokens)

        def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> Any:
            self._count()
            return super().score(questions, candidates)

    with pytest.raises(KeyboardInterrupt):
        evaluate(task, Killed(model), tmp_path / "killed", None, batch_size=4)
    evaluate(task, ModelAnswerer(model), tmp_path / "killed", None, batch_size=16)
    assert outputs(tmp_path / "killed", task) == expected
