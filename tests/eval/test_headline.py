"""Scores that are no mean over questions: right by hand, and their interval right by the slow bootstrap."""

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from eval.headline import Headline, all_right, mean_over
from eval.outcome import Outcome
from eval.truth import Truth


def outcome(number: int, score: float, category: str = "a", group: str | None = None) -> Outcome:
    truth = Truth(id=str(number), category=category, group=group)
    return Outcome(truth, number, "", None, score, f"id {number}" if group is None else f"group {group}")


def by_category(one: Outcome) -> str:
    return one.category or ""


def macro_by_loop(outcomes: Sequence[Outcome]) -> float:
    scores = defaultdict(list)
    for one in outcomes:
        scores[one.category].append(one.score)
    return sum(sum(values) / len(values) for values in scores.values()) / len(scores)


def test_a_group_counts_only_if_every_answer_in_it_is_right() -> None:
    circular = all_right(lambda one: one.group, "circular")
    scores = {"x": [1.0, 1.0, 1.0], "y": [1.0, 0.0, 1.0], "z": [1.0]}
    found = [outcome(10 * ord(g) + i, s, group=g) for g, values in scores.items() for i, s in enumerate(values)]
    assert circular.value(found) == 2 / 3


def test_the_mean_over_kinds_does_not_look_at_their_sizes() -> None:
    found = [outcome(i, float(i % 2), "large") for i in range(10)] + [outcome(10, 1.0, "small")]
    assert mean_over(by_category, "macro").value(found) == 0.75 == macro_by_loop(found)


def test_the_interval_is_that_of_drawing_questions_one_by_one() -> None:
    rng = random.Random(1)
    found = [outcome(i, float(rng.random() < (0.3 if i % 3 else 0.9)), "ab"[i % 3 == 0]) for i in range(120)]
    headline = mean_over(by_category, "macro")
    drawn = [macro_by_loop(rng.choices(found, k=len(found))) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    interval = headline.interval95(found)
    assert interval.low == pytest.approx(low, abs=0.015)
    assert interval.high == pytest.approx(high, abs=0.015)
    assert interval.rule == "bootstrap over draws"
    assert headline.interval95(found) == interval


def test_all_right_does_not_claim_certainty() -> None:
    interval = mean_over(by_category, "macro").interval95([outcome(i, 1.0) for i in range(10)])
    assert interval.rule == "wilson over draws"
    assert interval.low < 0.8
    assert interval.high == 1.0


def test_a_headline_outside_0_and_1_is_refused() -> None:
    total = Headline("total", lambda found: {one.id: (one.score,) for one in found}, lambda row: float(row[0]))
    with pytest.raises(ValueError, match=r"headline total is 3\.0; it must lie in"):
        total.interval95([outcome(i, 1.0) for i in range(3)])
