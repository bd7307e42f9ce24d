"""Scores of a comparison with their intervals, and the tables of it.

In: scored runs, and what each encoder costs. Out: a `Row` for each encoder, differences to the first, lines of text.
Two things make a score uncertain. Other questions: by the interval of the mean scores over seeds, question by question
(eval/intervals.py). Other seeds: by Student's t; the variance over seeds is taken from all encoders together, as two or three
seeds of one tell little of it. Tasks count as independent in the mean over them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.compare import Comparison, compare_scores, mean, t975
from eval.intervals import interval95
from eval.run import read_outcomes
from eval.task import Task
from vlm.encoder_comparison.cost import Cost
from vlm.encoder_comparison.runs import Run

MEAN = "mean of the tasks"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one encoder on one task, or the mean over tasks."""

    score: float
    low: float  # of the 95 % interval
    high: float
    blind: float | None  # None where no question was also asked without its pictures
    chance: float
    seeds: tuple[float, ...]  # the score of each


@dataclass(frozen=True, kw_only=True)
class Row:
    """All of one encoder."""

    label: str
    cost: Cost
    scores: dict[str, Score]  # by task
    mean: Score
    minutes: float  # of a training, the mean over seeds
    cpu_minutes: float  # likewise, of all its processes
    peak_bytes: int  # of its greatest process, the most of all seeds


def rows(runs: Sequence[Run], costs: Mapping[str, Cost], tasks: Sequence[Task]) -> list[Row]:
    """A row for each encoder, in the order of its runs."""
    of = {label: [run for run in runs if run.label == label] for label in costs}
    scores = {task.name: task_scores(of, task) for task in tasks}
    whole = {
        label: [mean([run.results[task.name].score for task in tasks]) for run in own] for label, own in of.items()
    }
    half = seed_half(list(whole.values()))
    found = []
    for label, own in of.items():
        by_task = {task.name: scores[task.name][label] for task in tasks}
        found.append(
            Row(
                label=label,
                cost=costs[label],
                scores={name: score for name, (score, _) in by_task.items()},
                mean=mean_score(list(by_task.values()), whole[label], half),
                minutes=mean([run.minutes for run in own]),
                cpu_minutes=mean([run.cpu_minutes for run in own]),
                peak_bytes=max(run.peak_bytes for run in own),
            )
        )
    return found


def task_scores(of: Mapping[str, Sequence[Run]], task: Task) -> dict[str, tuple[Score, float]]:
    """Each encoder's score on a task, and half the interval that other questions alone would give."""
    half = seed_half([[run.results[task.name].score for run in own] for own in of.values()])
    found = {}
    for label, own in of.items():
        outcomes = [read_outcomes(run.answers, task) for run in own]
        scores = np.array([[outcome.score for outcome in one] for one in outcomes]).mean(0)
        # Rounding may put the mean of ones above 1.
        interval = interval95(scores.clip(0, 1).tolist(), [outcome.group for outcome in outcomes[0]])
        results = [run.results[task.name] for run in own]
        centre = mean([result.score for result in results])
        blinds = [result.blind for result in results if result.blind is not None]
        score = Score(
            score=centre,
            low=max(0.0, centre - math.hypot(max(0.0, centre - interval.low), half)),
            high=min(1.0, centre + math.hypot(max(0.0, interval.high - centre), half)),
            blind=mean(blinds) if blinds else None,
            chance=results[0].chance,
            seeds=tuple(result.score for result in results),
        )
        found[label] = score, (interval.high - interval.low) / 2
    return found


def mean_score(scores: Sequence[tuple[Score, float]], seeds: Sequence[float], half: float) -> Score:
    """The mean over tasks.

    Args:
        scores: of each task, with half the interval of other questions.
        seeds: the mean over tasks of each seed.
        half: half the interval of other seeds.
    """
    centre = mean(seeds)
    wide = math.hypot(math.hypot(*(one for _, one in scores)) / len(scores), half)
    blinds = [score.blind for score, _ in scores if score.blind is not None]
    return Score(
        score=centre,
        low=max(0.0, centre - wide),
        high=min(1.0, centre + wide),
        blind=mean(blinds) if len(blinds) == len(scores) else None,
        chance=mean([score.chance for score, _ in scores]),
        seeds=tuple(seeds),
    )


def seed_half(scores: Sequence[Sequence[float]]) -> float:
    """Half the 95 % interval that other seeds give the mean of one encoder's runs; 0 where each has one run.

    Args:
        scores: of each encoder, one for each seed; as many for all.
    """
    runs = len(scores[0])
    if runs < 2:
        return 0.0
    variance = mean([float(np.var(own, ddof=1)) for own in scores])
    return t975(len(scores) * (runs - 1)) * math.sqrt(variance / runs)


def differences(runs: Sequence[Run], tasks: Sequence[Task]) -> dict[str, list[Comparison]]:
    """Of each encoder but the first, task by task: how much better than the first it is."""
    answers: dict[str, list[str]] = {}
    for run in runs:
        answers.setdefault(run.label, []).append(str(run.answers))
    first, *others = answers
    return {label: [compare_scores(task, answers[label], answers[first]) for task in tasks] for label in others}


HEAD = (
    "encoder", "weights", "score", "95 % interval", "blind", "vectors", "parameters", "FLOPs", "pictures/s", "memory", "training", "on CPUs",
)  # fmt: skip
NOTES = (
    f"score, blind: {MEAN}, with the pictures and without; FLOPs: of the encoder's forward, for a picture; pictures/s: the same on "
    "one CPU thread;\nmemory: of training's greatest process; training, on CPUs: by the clock, and CPU time of all its processes; means over seeds."
)


def table(found: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line for each encoder, under `HEAD`."""
    return [
        (
            row.label,
            row.cost.learns,
            f"{row.mean.score:.3f}",
            f"[{row.mean.low:.3f}, {row.mean.high:.3f}]",
            told(row.mean.blind),
            str(row.cost.vectors),
            millions(float(row.cost.learned + row.cost.frozen)),
            millions(row.cost.flops),
            f"{row.cost.pictures_per_s:,.0f}",
            f"{row.peak_bytes / 2**30:.2f} GiB",
            f"{row.minutes:.1f} min",
            f"{row.cpu_minutes:.1f} min",
        )
        for row in found
    ]


def task_table(found: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and lines: the scores of each encoder by task."""
    names = list(found[0].scores)
    chance = ("chance", *(f"{found[0].scores[name].chance:.3f}" for name in names))
    lines = [(row.label, *(with_interval(row.scores[name]) for name in names)) for row in found]
    return ("encoder", *names), [*lines, chance]


def difference_table(
    first: str, found: Mapping[str, Sequence[Comparison]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and lines: the differences to the first encoder by task."""
    names = [one.name for one in next(iter(found.values()))]
    lines = [
        (label, *(f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for one in own))
        for label, own in found.items()
    ]
    return (f"less {first}", *names), lines


def with_interval(score: Score) -> str:
    return f"{score.score:.3f} [{score.low:.3f}, {score.high:.3f}]"


def millions(number: float) -> str:
    return f"{number / 1e6:,.1f} M"


def told(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"
