from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from data.assets import expand
from data.assets.pieces import Pieces
from data.shards import write_shard
from eval.run import evaluate
from eval.tasks import TASKS


@pytest.fixture(scope="module")
def demo_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of each test set: composing all scenes takes a quarter of a minute."""
    folder = tmp_path_factory.mktemp("demo")
    sets = expand.builders(Pieces())
    for name in expand.TESTS:
        expand.write_set(folder / "test" / name, islice(sets[f"test/{name}"](), 120))
    return folder


@pytest.mark.parametrize("name", sorted(name for name in TASKS if name.startswith("demo/")))
def test_every_demo_task_can_be_asked_and_scored(
    name: str, demo_tests: Path, reader: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SaysTheFirst:
        """Knows nothing: the first choice, or one constant word."""

        def fingerprint(self) -> str:
            return "first"

        def generate(self, questions: Any, max_new_tokens: int) -> list[str]:
            return ["house"] * len(questions)

        def score(self, questions: Any, candidates: Any) -> list[list[float]]:
            return [[-float(place) for place in range(len(row))] for row in candidates]

    monkeypatch.setattr(expand, "demo_folder", lambda: demo_tests)
    result = evaluate(TASKS[name](), SaysTheFirst(), tmp_path)
    assert result.n >= 100
    assert result.details["skipped"] == []
    assert 0 <= result.low <= result.score <= result.high < 1
    # The first choice is right no more often than chance: the lists do not give answers away by their order.
    if result.details["mode"] == "choose":
        assert result.low - 0.02 <= result.chance <= result.high + 0.02


def test_presence_tells_f1_and_the_share_of_yes(
    record: Callable[..., Any], reader: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "test" / "presence"
    yes_no: dict[str, Any] = {"choices": ["yes", "no"]}
    write_shard(folder / "shard.tar", [record(n, **yes_no, answer=n % 2, group=f"g{n // 2}") for n in range(8)])

    class AlwaysYes:
        def fingerprint(self) -> str:
            return "yes"

        def generate(self, questions: Any, max_new_tokens: int) -> list[str]:
            raise AssertionError("presence is a choice")

        def score(self, questions: Any, candidates: Any) -> list[list[float]]:
            return [[-1.0 if choice == "yes" else -2.0 for choice in row] for row in candidates]

    monkeypatch.setattr(expand, "demo_folder", lambda: tmp_path)
    result = evaluate(TASKS["demo/presence"](), AlwaysYes(), tmp_path / "out")
    figures = {name: result.details[name] for name in ("precision", "recall", "f1", "yes_rate")}
    assert (result.score, result.chance, result.majority) == (0.5, 0.5, 0.5)
    assert figures == pytest.approx({"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "yes_rate": 1.0})
