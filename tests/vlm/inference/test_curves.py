import os
from pathlib import Path

import pytest

from vlm.inference.curves import Line, draw_chart, draw_compression, draw_loss, read_curves, smooth, ticks


def write_log(folder: Path, name: str, text: str, age: int) -> None:
    path = folder / "logs" / name / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    os.utime(path, ns=(10**18 - age, 10**18 - age))


def test_sparse_columns_become_series(tmp_path: Path) -> None:
    log = "epoch,step,train/loss,val/loss\n0,0,8.5,\n0,10,4.25,\n0,10,,5.0\n0,20,nan,\n"
    write_log(tmp_path, "version_0", log, age=0)
    assert read_curves(tmp_path) == {"train/loss": ((0.0, 8.5), (10.0, 4.25)), "val/loss": ((10.0, 5.0),)}


def test_a_resumed_run_goes_on_from_the_older_file_and_a_new_run_replaces_it(tmp_path: Path) -> None:
    write_log(tmp_path, "version_0", "step,train/loss\n0,9\n10,8\n20,7\n", age=5)
    write_log(tmp_path, "version_1", "step,train/loss\n15,6\n25,5\n", age=0)
    assert read_curves(tmp_path)["train/loss"] == ((0, 9), (10, 8), (15, 6), (25, 5))
    write_log(tmp_path, "version_2", "step,train/loss\n0,3\n", age=-5)
    assert read_curves(tmp_path)["train/loss"] == ((0, 3),)


def test_no_logs_are_no_curves_and_charts_say_so(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    assert "nothing was logged" in draw_loss({})
    assert "nothing was logged" in draw_compression({}, None)


def test_smoothing_keeps_a_constant() -> None:
    assert [value for _, value in smooth(((0.0, 3.0), (1.0, 3.0), (2.0, 3.0)))] == pytest.approx([3.0] * 3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1000.0, [0, 200, 400, 600, 800, 1000]), (1.9, 2.11, [1.9, 1.95, 2.0, 2.05, 2.1]), (3.0, 3.0, [3])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_a_chart_draws_the_target_and_thins_long_lines() -> None:
    points = tuple((float(step), 2 + step / 1e5) for step in range(10_000))
    drawn = draw_chart("Title & more", [Line("a", points)], "tokens", target=2.0)
    assert 'class="target"' in drawn
    assert "Title &amp; more" in drawn
    assert drawn.count(",") < 400
