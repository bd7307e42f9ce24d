"""Two kinds of model on the same questions: how much better one is, and how sure that is.

In: folders of finished runs, some of each kind (seeds). Out: the difference of the mean scores with a 95 % interval. Two
things make it uncertain, and both count. Other questions: the runs' mean scores are compared question by question, and
groups of questions are drawn anew (Koehn 2004, in the paired form). Other seeds: the spread of the runs' scores, by
Student's t (Welch's standard error, as many degrees of freedom as there are runs, less two).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from eval.intervals import RESAMPLES, SEED, Z95
from eval.outcome import Outcome
from eval.run import kept_outcomes
from eval.task import Task


@dataclass(frozen=True)
class Comparison:
    """One figure of two kinds of run."""

    name: str
    first: tuple[float, ...]  # of each run
    second: tuple[float, ...]
    low: float  # of the 95 % interval of the difference of the means
    high: float
    covers: Literal["questions and seeds", "questions", "seeds", "nothing"]  # what the interval is about

    @property
    def difference(self) -> float:
        """Mean of the first kind less mean of the second."""
        return mean(self.first) - mean(self.second)


def compare_scores(task: Task, first: Sequence[str | Path], second: Sequence[str | Path]) -> Comparison:
    """The scores of runs of two kinds on one task.

    Raises:
        ValueError: a run has not finished the task, or the runs were not asked the same questions.
    """
    runs = [*first, *second]
    found = [kept_outcomes(folder, task) for folder in runs]
    return compare_outcomes(task.name, found[: len(first)], found[len(first) :], [str(folder) for folder in runs])


def compare_outcomes(
    name: str, first: Sequence[Sequence[Outcome]], second: Sequence[Sequence[Outcome]], folders: Sequence[str]
) -> Comparison:
    """Like `compare_scores`, of outcomes at hand.

    Args:
        folders: what the runs are called in messages, those of the first kind before those of the second.
    """
    found = [{one.id: one for one in outcomes} for outcomes in (*first, *second)]
    asked = list(found[0])
    for folder, by_id in zip(folders, found, strict=True):
        if set(by_id) != set(asked) or any(one.truth != found[0][name].truth for name, one in by_id.items()):
            raise ValueError(
                f"{folder} answered {len(by_id)} questions of {name}, and not the same ones as {folders[0]} "
                f"({len(asked)}); compare runs of the same questions"
            )
    scores = np.array([[by_id[one].score for one in asked] for by_id in found])
    groups = [found[0][one].group for one in asked]
    ours, theirs = scores[: len(first)], scores[len(first) :]
    error = question_error(ours.mean(0) - theirs.mean(0), groups)
    return _comparison(name, ours.mean(1).tolist(), theirs.mean(1).tolist(), error)


def compare_figures(name: str, first: Sequence[float], second: Sequence[float]) -> Comparison:
    """A figure that each run has once, such as a loss: seeds alone make it uncertain."""
    return _comparison(name, first, second, None)


def _comparison(name: str, first: Sequence[float], second: Sequence[float], error: float | None) -> Comparison:
    half = 0.0 if error is None else Z95 * error
    seeds = min(len(first), len(second)) > 1
    if seeds:
        by_seeds = math.sqrt(sum(float(np.var(runs, ddof=1)) / len(runs) for runs in (first, second)))
        half = math.hypot(half, t975(len(first) + len(second) - 2) * by_seeds)
    difference = mean(first) - mean(second)
    known = [part for part, there in (("questions", error is not None), ("seeds", seeds)) if there]
    covers: Literal["questions and seeds", "questions", "seeds", "nothing"]
    covers = " and ".join(known) or "nothing"  # type: ignore[assignment]
    if covers == "nothing":
        half = math.nan
    return Comparison(name, tuple(first), tuple(second), difference - half, difference + half, covers)


def question_error(differences: Float64[np.ndarray, " q"], groups: Sequence[str]) -> float:
    """Standard error of the mean difference, whole groups of questions drawn with replacement."""
    places: dict[str, int] = {}
    group_of = np.array([places.setdefault(group, len(places)) for group in groups])
    sums, sizes = np.bincount(group_of, differences), np.bincount(group_of)
    rng, share = np.random.default_rng(SEED), np.full(len(places), 1 / len(places))
    times = rng.multinomial(len(places), share, size=RESAMPLES)
    return float(((times @ sums) / (times @ sizes)).std())


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def t975(freedom: int) -> float:
    """The 97.5 % point of Student's t distribution."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    low, high = 0.0, 20.0
    # Simpson's rule for the share between 0 and x, halved until it is 0.475.
    for _ in range(60):
        middle = (low + high) / 2
        x = np.linspace(0, middle, 2001)
        density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
        share = (density[0] + density[-1] + 4 * density[1:-1:2].sum() + 2 * density[2:-1:2].sum()) * middle / 6000
        low, high = (middle, high) if share < 0.475 else (low, middle)
    return low
