"""How far a score may be off: 95 % intervals for the mean of scores in [0, 1].

Independent right/wrong scores: Wilson's interval, right also near 0 and 1 and for few questions (Wilson 1927, JASA 22).
Everything else: a percentile bootstrap over groups (Davison & Hinkley 1997, ch. 3), so that ten questions on one
picture count as one draw. It is a little narrow for fewer than about twenty groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point
RESAMPLES = 2000
SEED = 20260117
_CHUNK = 1 << 20  # draws held at once


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    rule: str  # how it was made, kept beside the score


def wilson(mean: float, count: int) -> Interval:
    """Wilson's score interval for a share `mean` of `count` independent draws."""
    if count < 1:
        raise ValueError("an interval needs at least one score")
    spread = Z95**2 / count
    centre = (mean + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(mean * (1 - mean) / count + spread / (4 * count))
    # The ends are exactly 0 and 1 at a mean of 0 and 1; rounding must not put the mean outside.
    return Interval(max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean)), "wilson")


def group_bootstrap(scores: Sequence[float], groups: Sequence[str]) -> Interval:
    """Percentile bootstrap of the mean over questions, drawing whole groups with replacement, with a fixed seed.

    Groups that all score alike give a bootstrap no spread to work with. Wilson's interval with one draw per group is
    then returned: a score in [0, 1] varies at most as much as a right/wrong one of the same mean.
    """
    places: dict[str, int] = {}
    group_of = np.array([places.setdefault(group, len(places)) for group in groups])
    values = np.asarray(scores, dtype=np.float64)
    sums, sizes = np.bincount(group_of, values), np.bincount(group_of)
    mean, num_groups = float(values.mean()), len(places)
    if np.ptp(sums / sizes) < 1e-12:
        return replace(wilson(mean, num_groups), rule="wilson over groups")
    rng = np.random.default_rng(SEED)
    share = np.full(num_groups, 1 / num_groups)
    per_chunk = max(1, _CHUNK // num_groups)
    means = []
    for start in range(0, RESAMPLES, per_chunk):
        times = rng.multinomial(num_groups, share, size=min(per_chunk, RESAMPLES - start))
        means.append((times @ sums) / (times @ sizes))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(min(float(low), mean), max(float(high), mean), "bootstrap over groups")


def interval95(scores: Sequence[float], groups: Sequence[str] | None = None) -> Interval:
    """The 95 % interval of the mean of scores in [0, 1].

    Args:
        scores: one score per question.
        groups: the group of each; None if every question is a draw of its own.

    Raises:
        ValueError: no scores, or one outside [0, 1].
    """
    if not scores:
        raise ValueError("an interval needs at least one score")
    outside = next((score for score in scores if not 0 <= score <= 1), None)
    if outside is not None:
        raise ValueError(f"a score is {outside}; metrics must give values in [0, 1]")
    alone = groups is None or len(set(groups)) == len(groups)
    if alone and all(score in (0, 1) for score in scores):
        return wilson(sum(scores) / len(scores), len(scores))
    return group_bootstrap(scores, groups if groups is not None else [str(i) for i in range(len(scores))])
