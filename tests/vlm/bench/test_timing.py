import time

import pytest

from vlm.bench.timing import Timing, interleave

pytestmark = pytest.mark.long


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert [len(timing.seconds) for timing in times.values()] == [3, 3]


def test_the_ratio_is_that_of_the_work() -> None:
    times = interleave({"long": lambda: burn(0.03), "short": lambda: burn(0.01)}, rounds=3)
    assert times["long"].over(times["short"]) == pytest.approx(3, rel=0.3)


def test_one_bad_round_does_not_change_the_ratio() -> None:
    assert Timing((2.0, 2.0, 20.0)).over(Timing((1.0, 1.0, 1.0))) == 2
    assert Timing((1.0, 3.0, 2.0)).spread == 1


def test_progress_counts_every_run() -> None:
    told: list[tuple[int, int]] = []
    interleave({"a": lambda: None}, rounds=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleave({}, rounds=0)
