"""Two models on the same questions: does one answer better, or is it chance?

In: folders of two evaluations. Out: the difference of their mean scores, its interval, and the p of a paired test. Both models met
the same questions, so what counts is the difference question by question: its spread is smaller than that of either score.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from eval.as_asked import task_as_asked
from eval.compare import question_error
from eval.intervals import SEED, Z95
from eval.outcome import Outcome
from eval.plan_file import read_plan
from eval.predictions import task_folder
from eval.run import kept_outcomes

FLIPS = 10_000
_CHUNK = 1 << 20  # signs held at once


@dataclass(frozen=True)
class PairedTest:
    """One task, by two models."""

    task: str
    first: float  # mean score over the questions that both have
    second: float
    n: int
    low: float  # of the 95 % interval of the difference
    high: float
    p: float  # chance of a difference as large if neither were better
    first_better: int  # questions
    second_better: int
    left_out: int  # questions that only one could answer

    @property
    def difference(self) -> float:
        """First less second."""
        return self.first - self.second


def evaluated(folder: Path) -> list[str]:
    """The tasks with a score in a folder.

    Raises:
        ValueError: there is no scores.json, or it cannot be read.
    """
    path = Path(folder) / "scores.json"
    try:
        names = list(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no scores.json; give a folder that `vlm eval` wrote, or evaluate first"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is not what an evaluation writes ({error}); evaluate again") from None
    return names


def compare_kept(name: str, first: Path, second: Path) -> PairedTest:
    """Two evaluations of a task, by the scores that they kept.

    Raises:
        ValueError: a folder has no finished evaluation of it, or the two asked different questions.
    """
    tasks = [task_as_asked(folder, name) for folder in (first, second)]
    truths = [
        {one.id: one.truth for one in read_plan(task_folder(folder, name), task).asked}
        for folder, task in zip((first, second), tasks, strict=True)
    ]
    differing = [name for name in truths[0].keys() | truths[1].keys() if truths[0].get(name) != truths[1].get(name)]
    if differing:
        raise ValueError(
            f"{first} and {second} were not asked the same questions of {name} (such as {min(differing)!r}, of {len(differing)}); "
            "evaluate both with the same --limit and the same shards"
        )
    outcomes: list[dict[str, Outcome]] = [
        {one.id: one for one in kept_outcomes(folder, task)}
        for folder, task in zip((first, second), tasks, strict=True)
    ]
    both = [one for one in outcomes[0] if one in outcomes[1]]
    scores = np.array([[found[one].score for one in both] for found in outcomes])
    groups = [outcomes[0][one].group for one in both]
    differences = scores[0] - scores[1]
    half = Z95 * question_error(differences, groups)
    mean = float(differences.mean())
    return PairedTest(
        task=name,
        first=float(scores[0].mean()),
        second=float(scores[1].mean()),
        n=len(both),
        low=mean - half,
        high=mean + half,
        p=sign_flip(differences, groups),
        first_better=int((differences > 0).sum()),
        second_better=int((differences < 0).sum()),
        left_out=len(set(outcomes[0]) ^ set(outcomes[1])),
    )


def sign_flip(differences: Float64[np.ndarray, " q"], groups: Sequence[str]) -> float:
    """The p of a two-sided permutation test of paired differences (Fisher 1935), whole groups flipped together.

    Of few groups all ways to flip them are tried, of many 10,000 drawn with a fixed seed; the observed one counts among those.
    """
    places: dict[str, int] = {}
    group_of = np.array([places.setdefault(group, len(places)) for group in groups])
    sums = np.bincount(group_of, differences)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(float(sums.sum())) - 1e-9
    if 2 ** len(sums) <= FLIPS:
        bits = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float((abs((1 - 2 * bits) @ sums) >= observed).mean())
    rng, reached = np.random.default_rng(SEED), 1
    per_chunk = max(1, _CHUNK // len(sums))
    for start in range(0, FLIPS, per_chunk):
        signs = 1 - 2 * rng.integers(0, 2, (min(per_chunk, FLIPS - start), len(sums)))
        reached += int((abs(signs @ sums) >= observed).sum())
    return reached / (FLIPS + 1)
