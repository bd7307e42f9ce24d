from collections.abc import Callable

import pytest

from vlm.bench.timing import Timing, interleave


class Clock:
    """A process time that passes only where a run is said to take some."""

    now = 0.0

    def taking(self, *seconds: float) -> Callable[[], None]:
        """Something to run that takes so long, one time after another."""
        rest = iter(seconds)

        def run() -> None:
            self.now += next(rest)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr("vlm.bench.timing.time.process_time", lambda: fake.now)
    return fake


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert [len(time.seconds) for time in times.values()] == [3, 3]


def test_each_is_charged_with_what_it_takes_and_nothing_between(clock: Clock) -> None:
    def between(done: int, total: int) -> None:
        clock.now += 100.0

    runs = {"long": clock.taking(4.0, 3.0, 6.0, 3.0), "short": clock.taking(9.0, 1.0, 2.0, 1.0)}
    times = interleave(runs, rounds=3, progress=between)
    assert {name: time.seconds for name, time in times.items()} == {"long": (3.0, 6.0, 3.0), "short": (1.0, 2.0, 1.0)}
    assert times["long"].over(times["short"]) == 3


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
