"""Scores of a comparison: what the intervals are made of."""

import math
from collections.abc import Sequence
from statistics import mean, variance

import pytest

from data.sample import Part, Question
from eval.run import evaluate
from eval.task import Task
from vlm.encoder_comparison.cost import Cost
from vlm.encoder_comparison.runs import Run
from vlm.encoder_comparison.table import HEAD, Row, difference_table, differences, rows, seed_half, table, task_table

T2 = 4.302652729749464  # 97.5 % point of Student's t with 2 degrees of freedom
COST = Cost(vectors=9, size_px=96, learned=0, frozen=2_000_000, flops=1e8, pictures_per_s=250.0)


class Fixed:
    """Says "yes" to the questions whose number is below `right`."""

    def __init__(self, right: int) -> None:
        self.right = right

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        return ["yes" if int(question.id) < self.right else "no" for question in questions]

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        raise AssertionError("these tasks are answered in words")

    def fingerprint(self) -> str:
        return f"fixed {self.right}"


def questions() -> list[Question]:
    return [Question(key=str(i), id=str(i), content=(Part(text="?"),), images={}, answers=("yes",)) for i in range(40)]


TASKS = [Task(name=name, questions=questions) for name in ("one", "two")]
RIGHT = {("a", 0): (30, 20), ("a", 1): (32, 20), ("b", 0): (10, 4), ("b", 1): (16, 8)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for (label, seed), right in RIGHT.items():
        place = folder / label / f"seed-{seed}"
        results = {task.name: evaluate(task, Fixed(count), place) for task, count in zip(TASKS, right, strict=True)}
        found.append(
            Run(
                label=label,
                seed=seed,
                folder=place,
                answers=place,
                results=results,
                minutes=2.0 + seed,
                cpu_minutes=1.0,
                peak_bytes=2**30 * (1 + seed),
            )
        )
    return found


@pytest.fixture(scope="module")
def both(runs: list[Run]) -> list[Row]:
    return rows(runs, {"a": COST, "b": COST}, TASKS)


def test_the_variance_over_seeds_is_taken_from_all_encoders_together() -> None:
    assert seed_half([[0.5], [0.7]]) == 0.0
    scores = [[0.50, 0.54], [0.30, 0.40]]
    pooled = mean(variance(own) for own in scores)
    assert seed_half(scores) == pytest.approx(T2 * math.sqrt(pooled / 2))


def test_one_run_keeps_the_interval_of_its_questions(runs: list[Run]) -> None:
    first = [run for run in runs if run.seed == 0]
    (row, _) = rows(first, {"a": COST, "b": COST}, TASKS)
    for task in TASKS:
        score, result = row.scores[task.name], first[0].results[task.name]
        assert (score.low, score.high) == pytest.approx((result.low, result.high))
        assert score.blind is None


def test_seeds_widen_an_interval_by_students_t(runs: list[Run], both: list[Row]) -> None:
    score = both[0].scores["two"]
    assert score.seeds == (0.5, 0.5)
    half = T2 * math.sqrt(mean([0.0, variance([0.1, 0.2])]) / 2)
    alone = runs[0].results["two"]  # both seeds gave the same answers, so their mean has the interval of one
    assert 0.5 - score.low == pytest.approx(math.hypot(0.5 - alone.low, half))
    assert score.high - 0.5 == pytest.approx(math.hypot(alone.high - 0.5, half))


def test_questions_of_several_tasks_make_their_mean_more_certain(runs: list[Run]) -> None:
    (a, _) = rows([run for run in runs if run.seed == 0], {"a": COST, "b": COST}, TASKS)
    halves = [(score.high - score.low) / 2 for score in a.scores.values()]
    assert a.mean.score == pytest.approx((0.75 + 0.5) / 2)
    assert (a.mean.high - a.mean.low) / 2 == pytest.approx(math.hypot(*halves) / 2)


def test_the_mean_over_tasks_varies_as_the_means_of_the_seeds_do(both: list[Row]) -> None:
    a, b = both
    assert a.mean.seeds == pytest.approx(((0.75 + 0.5) / 2, (0.8 + 0.5) / 2))
    assert a.mean.score == pytest.approx(mean(a.mean.seeds))
    assert a.mean.high - a.mean.score > seed_half([a.mean.seeds, b.mean.seeds])


def test_lines_have_a_cell_for_each_title(runs: list[Run], both: list[Row]) -> None:
    (line, _) = table(both)
    cells = dict(zip(HEAD, line, strict=True))
    assert (cells["score"], cells["weights"], cells["parameters"]) == ("0.637", "frozen", "2.0 M")
    assert (cells["memory"], cells["training"]) == ("2.00 GiB", "2.5 min")
    head, lines = task_table(both)
    assert [len(one) for one in lines] == [len(head)] * 3  # the last is chance
    less = differences(runs, TASKS)
    head, lines = difference_table("a", less)
    assert head == ("less a", "one", "two")
    assert [one[0] for one in lines] == ["b"]
    assert lines[0][2].startswith("-0.350 [")


def test_what_learns_is_told() -> None:
    def learns(learned: int, frozen: int) -> str:
        return Cost(vectors=1, size_px=1, learned=learned, frozen=frozen, flops=1.0, pictures_per_s=1.0).learns

    assert (learns(0, 5), learns(5, 0), learns(5, 5), learns(0, 0)) == ("frozen", "trained", "in part", "frozen")
