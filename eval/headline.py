"""The figure that a benchmark is reported by, where that is not the mean over its questions.

In: outcomes. Out: one number in [0, 1] and its interval. Such a figure (all rotations of a question right, the mean over
subtasks, F1) is a function of sums over independent draws; so its interval is a bootstrap of those sums
(Davison & Hinkley 1997, ch. 3), seeded, as cheap for a sum over pairs as for a mean.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from eval.intervals import RESAMPLES, SEED, Interval, wilson
from eval.outcome import Outcome


@dataclass(frozen=True)
class Headline:
    """What a task reports in place of the mean over questions.

    Attributes:
        name: said in the result.
        sums: what each independent draw adds, by the draw's name; gets all outcomes, so that it may look at them together.
            All rows are of one length.
        figure: of the rows added up; in [0, 1].
        scale: what 1.0 is on the benchmark's own scale, such as 2800 for MME.
    """

    name: str
    sums: Callable[[Sequence[Outcome]], Mapping[str, Sequence[float]]]
    figure: Callable[[Float64[np.ndarray, " k"]], float]
    scale: float = 1.0

    def value(self, outcomes: Sequence[Outcome]) -> float:
        """The figure of these outcomes."""
        rows = self.sums(outcomes)
        return float(self.figure(np.sum(np.array(list(rows.values()), dtype=np.float64), axis=0)))

    def interval95(self, outcomes: Sequence[Outcome]) -> Interval:
        """Percentile bootstrap, drawing with replacement, with a fixed seed.

        Draws without spread (all right) leave it nothing to work with: Wilson's interval with one right-or-wrong per draw
        is then returned.

        Raises:
            ValueError: the figure leaves [0, 1].
        """
        rows = np.array(list(self.sums(outcomes).values()), dtype=np.float64)
        value, num = float(self.figure(rows.sum(0))), len(rows)
        if not 0 <= value <= 1:
            raise ValueError(f"headline {self.name} is {value}; it must lie in [0, 1], and `scale` say what 1.0 means")
        rng = np.random.default_rng(SEED)
        drawn = []
        for _ in range(RESAMPLES):
            times = np.bincount(rng.integers(num, size=num), minlength=num)
            drawn.append(float(self.figure(times @ rows)))
        if np.ptp(drawn) < 1e-12:
            return replace(wilson(value, num), rule="wilson over draws")
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(min(float(low), value), max(float(high), value), "bootstrap over draws")


def all_right(key: Callable[[Outcome], str], name: str) -> Headline:
    """Share of groups in which every answer is right, as for the rotations of one question."""

    def sums(outcomes: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
        rows: dict[str, tuple[float, float]] = {}
        for one in outcomes:
            hit, _ = rows.get(key(one), (1.0, 1.0))
            rows[key(one)] = (min(hit, float(one.score == 1)), 1.0)
        return rows

    return Headline(name, sums, lambda total: total[0] / total[1])


def mean_over(key: Callable[[Outcome], str], name: str) -> Headline:
    """Mean of the mean scores of some kinds of question, each kind counting alike, however many questions it has."""

    def sums(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
        places = {kind: place for place, kind in enumerate(sorted({key(one) for one in outcomes}))}
        rows: dict[str, list[float]] = defaultdict(lambda: [0.0] * (2 * len(places)))
        for one in outcomes:
            rows[one.group][place := places[key(one)]] += one.score
            rows[one.group][place + len(places)] += 1
        return rows

    return Headline(name, sums, mean_of_shares)


def mean_of_shares(total: Float64[np.ndarray, " k"]) -> float:
    """Of sums and their counts, one half behind the other: the mean of the quotients; what was not drawn is left out."""
    hits, counts = np.split(total, 2)
    drawn = counts > 0
    return float((hits[drawn] / counts[drawn]).mean())
