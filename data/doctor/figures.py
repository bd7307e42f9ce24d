"""Many numbers as a few: mean, quantiles, a histogram of round steps; and what comes more than once."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BARS = 28  # of a histogram at most
REST = 0.995  # quantile behind which all stands in the last bar: a long tail would flatten the rest


@dataclass(frozen=True)
class Histogram:
    """Counts of the values from each edge to the next; the last bar also holds all that lies behind it."""

    edges: tuple[float, ...]  # one more than counts
    counts: tuple[int, ...]
    goes_on: bool  # True where values lie behind the last edge


@dataclass(frozen=True)
class Spread:
    """How a figure is spread over records or pictures."""

    n: int
    total: int | float
    mean: float
    least: int | float
    p5: int | float
    p50: int | float
    p95: int | float
    most: int | float
    histogram: Histogram


@dataclass(frozen=True)
class Repeats:
    """Values that come more than once."""

    groups: int  # such values
    copies: int  # what comes after the first of each
    places: tuple[tuple[int, ...], ...]  # of the first groups: places of some of their members, ascending


def spread(values: Any) -> Spread | None:
    """The figures of a column of numbers; None where it is empty."""
    if not len(values):
        return None
    least, p5, p50, p95, most = np.quantile(values, [0, 0.05, 0.5, 0.95, 1], method="nearest").tolist()
    return Spread(len(values), _plain(values.sum()), float(values.mean()), least, p5, p50, p95, most, histogram(values))


def histogram(values: Any) -> Histogram:
    """Bars of 1, 2 or 5 times a power of ten; of whole numbers none is narrower than 1."""
    least, most = _plain(values.min()), _plain(values.max())
    reach = max(float(np.quantile(values, REST)), least)
    finest = 1.0 if np.issubdtype(values.dtype, np.integer) else 1e-9
    step = _round_step(max((reach - least) / NUM_BARS, finest))
    low = math.floor(least / step) * step
    num_bars = max(1, math.floor((reach - low) / step + 1e-9) + 1)
    places = np.minimum(((values - low) / step + 1e-9).astype(np.int64), num_bars - 1)
    counts = np.bincount(places, minlength=num_bars)
    edges = tuple(round(low + place * step, 9) for place in range(num_bars + 1))
    return Histogram(edges, tuple(counts.tolist()), most >= edges[-1])


def repeats(values: Any, most_groups: int, most_members: int = 4) -> Repeats:
    """What comes again in a column.

    Args:
        most_groups: whose places are given, the earliest first.
        most_members: of a group whose places are given.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    if not len(again):
        return Repeats(0, 0, ())
    is_first = np.ones(len(again), dtype=bool)
    is_first[1:] = again[1:] != again[:-1] + 1
    starts = again[is_first] - 1
    earliest = starts[np.argsort(order[starts], kind="stable")[:most_groups]]
    groups = []
    for start in earliest.tolist():
        stop = start
        while stop < len(ordered) and stop - start < most_members and ordered[stop] == ordered[start]:
            stop += 1
        groups.append(tuple(order[start:stop].tolist()))
    return Repeats(len(starts), len(again), tuple(groups))


def most_frequent(values: Any, count: int) -> list[tuple[int, int]]:
    """(place of the first, how often) of the most frequent values, the most frequent first."""
    if not len(values):
        return []
    _, firsts, counts = np.unique(values, return_index=True, return_counts=True)
    top = np.lexsort((firsts, -counts))[:count]
    return list(zip(firsts[top].tolist(), counts[top].tolist(), strict=True))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough) + 1e-12)
    return next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * (1 - 1e-9))


def _plain(number: Any) -> Any:
    return number.item()
