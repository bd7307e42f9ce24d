import numpy as np
import pytest

from eval.intervals import group_bootstrap, interval95, wilson


def test_wilson_gives_the_published_example() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, table I): 81 of 263 and 0 of 20, without continuity correction.
    assert (round(wilson(81 / 263, 263).low, 4), round(wilson(81 / 263, 263).high, 4)) == (0.2553, 0.3662)
    assert (round(wilson(0.0, 20).low, 4), round(wilson(0.0, 20).high, 4)) == (0.0, 0.1611)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_wilson_holds_the_truth_about_95_times_of_100(share: float) -> None:
    hits = np.random.default_rng(0).binomial(200, share, size=4000)
    held = [(found := wilson(k / 200, 200)).low <= share <= found.high for k in hits]
    assert 0.93 <= np.mean(held) <= 0.97


def grouped_draw(rng: np.random.Generator, num_groups: int) -> tuple[list[float], list[str]]:
    """Groups of five answers with a luck of their own: mean 0.5, strongly dependent within a group."""
    luck = rng.beta(0.5, 0.5, size=num_groups)
    scores = (rng.random((num_groups, 5)) < luck[:, None]).astype(float)
    return [float(score) for score in scores.ravel()], [str(g) for g in range(num_groups) for _ in range(5)]


def test_the_group_bootstrap_holds_the_truth_where_wilson_does_not() -> None:
    rng = np.random.default_rng(1)
    held, held_by_wilson = [], []
    for _ in range(300):
        scores, groups = grouped_draw(rng, num_groups=40)
        found, naive = interval95(scores, groups), interval95(scores)
        held.append(found.low <= 0.5 <= found.high)
        held_by_wilson.append(naive.low <= 0.5 <= naive.high)
    assert np.mean(held) >= 0.90
    assert np.mean(held_by_wilson) < 0.80


def test_the_bootstrap_of_continuous_scores_agrees_with_the_normal_interval() -> None:
    scores = [float(score) for score in np.random.default_rng(2).random(1000)]
    found, mean, error = interval95(scores), np.mean(scores), np.std(scores) / np.sqrt(1000)
    assert found.rule == "bootstrap over groups"
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_groups_of_one_are_independent_draws() -> None:
    assert interval95([1.0, 0.0, 1.0], ["a", "b", "c"]) == interval95([1.0, 0.0, 1.0])


def test_an_interval_is_the_same_every_time() -> None:
    scores, groups = grouped_draw(np.random.default_rng(3), num_groups=20)
    assert group_bootstrap(scores, groups) == group_bootstrap(scores, groups)


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
def test_scores_without_spread_do_not_claim_certainty(scores: list[float]) -> None:
    found = interval95(scores, ["a", "a", "b", "b"])
    assert found.high - found.low > 0.3
    assert found.low <= scores[0] <= found.high


@pytest.mark.parametrize("scores", [[], [1.5], [float("nan")]])
def test_no_scores_and_scores_outside_0_and_1_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="score"):
        interval95(scores)
