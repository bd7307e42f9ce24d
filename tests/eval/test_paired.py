"""A paired comparison of two evaluations."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.shards import write_shard
from eval.paired import compare_kept, evaluated, sign_flip
from eval.report import write_scores
from eval.run import evaluate
from eval.task import Task
from eval.tasks.shards import shards_task


def flipped_by_hand(differences: list[float]) -> float:
    """Every way to flip the signs, one by one."""
    observed = abs(sum(differences))
    ways = list(itertools.product((1, -1), repeat=len(differences)))
    reached = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-9 for signs in ways]
    return sum(reached) / len(ways)


@pytest.mark.parametrize("differences", [[1.0, 1, 1, -1, 1], [0.5, -0.25, 0.125, 1.0], [1.0, -1.0]])
def test_few_questions_are_flipped_in_every_way(differences: list[float]) -> None:
    groups = [str(number) for number in range(len(differences))]
    assert sign_flip(np.array(differences), groups) == pytest.approx(flipped_by_hand(differences))
    # Questions that both answer alike change nothing.
    assert sign_flip(np.array([*differences, 0.0]), [*groups, "x"]) == pytest.approx(flipped_by_hand(differences))


def test_a_group_is_flipped_as_one_and_many_are_drawn() -> None:
    assert sign_flip(np.array([1.0, 1, 1, 1]), ["a"] * 4) == 1.0
    assert sign_flip(np.ones(40), [str(i) for i in range(40)]) < 0.001
    rng = np.random.default_rng(0)
    ps = [sign_flip(rng.choice([-1.0, 1.0], 60), [str(i) for i in range(60)]) for _ in range(60)]
    assert 0.3 < float(np.mean(ps)) < 0.75  # no difference: p is spread over its range
    assert sign_flip(np.zeros(3), ["a", "b", "c"]) == 1.0


@pytest.fixture
def runs(reader: Callable[..., Any], colour_shard: Path, tmp_path: Path) -> tuple[Task, Path, Path]:
    task = shards_task(colour_shard, "choose")
    for name, wrong_every in (("good", 10), ("poor", 2)):
        result = evaluate(task, reader(wrong_every=wrong_every), tmp_path / name)
        write_scores(tmp_path / name / "scores.json", {task.name: result})
    return task, tmp_path / "good", tmp_path / "poor"


def test_the_better_of_two_is_told_with_its_questions(runs: tuple[Task, Path, Path]) -> None:
    task, good, poor = runs
    assert evaluated(good) == [task.name]
    found = compare_kept(task.name, good, poor)
    # Wrong: 0, 10, 20, 30, 40 against every second.
    assert (found.first, found.second, found.n) == (45 / 50, 25 / 50, 50)
    assert (found.first_better, found.second_better, found.left_out) == (20, 0, 0)
    assert found.low > 0
    assert found.p < 0.001
    same = compare_kept(task.name, good, good)
    assert (same.difference, same.p) == (0, 1)


def test_other_questions_and_missing_runs_are_refused(
    runs: tuple[Task, Path, Path], reader: Callable[..., Any], record: Callable[..., Any], tmp_path: Path
) -> None:
    task, good, _ = runs
    write_shard(tmp_path / "fewer" / "colours.tar", [record(number) for number in range(49)])
    evaluate(shards_task(tmp_path / "fewer" / "colours.tar", "choose"), reader(), tmp_path / "short")
    with pytest.raises(ValueError, match=r"not asked the same questions of shards/colours \(such as 'q49', of 1\)"):
        compare_kept(task.name, good, tmp_path / "short")
    with pytest.raises(ValueError, match="has no finished evaluation"):
        compare_kept(task.name, good, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no scores\.json"):
        evaluated(tmp_path / "nowhere")
