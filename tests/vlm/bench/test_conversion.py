"""`vlm bench conversion`: runs are made once, failures are told, figures are means over seeds."""

import sys
from pathlib import Path

import pytest

from vlm.bench.conversion import Continued, make, table
from vlm.bench.conversion_plot import PANELS, draw, draw_figure


def continued(variant: str, seed: int, loss: float, compression: float | None = 1.5) -> Continued:
    return Continued(
        variant=variant,
        seed=seed,
        first_loss=4.0 + seed,
        loss=loss,
        beside_source=loss / 4.0 - 1,
        compression=compression,
        flops=1.0,
        kv_bytes=0.75,
        training=((1.0, 4.5 + seed), (10.0, loss)),
        validation=((50.0, loss + 0.1), (100.0, loss)),
    )


RESULTS = [continued("source continued", seed, 4.0, None) for seed in (0, 1)] + [
    continued("top-k", 0, 4.1),
    continued("top-k", 1, 4.3, 1.7),
]


def test_a_row_has_means_and_ends_over_seeds() -> None:
    source, top_k = table(RESULTS)
    assert source[0:3] == ("source continued", "4.50 [4.00, 5.00]", "4.000 [4.000, 4.000]")
    assert source[4] == "-"
    assert top_k[2:] == ("4.200 [4.100, 4.300]", "+5.0 [+2.5, +7.5]", "1.60 [1.50, 1.70]", "1.00", "0.75")


@pytest.mark.long
def test_curves_are_means_between_their_ends(tmp_path: Path) -> None:
    axes = draw_figure(RESULTS).axes
    assert [axis.get_title("left") for axis in axes] == [title for _, title in PANELS]
    line = next(line for line in axes[0].lines if line.get_label() == "top-k")
    assert list(line.get_xdata()) == [1.0, 10.0]
    assert list(line.get_ydata()) == pytest.approx([5.0, 4.2])
    others = ("top-k, at once", "top-k, Eq. 10", "loop", "loop, not chunked")
    draw([*RESULTS, *(continued(name, 0, 4.2) for name in others)], tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_a_run_is_made_once_and_never_taken_for_another(tmp_path: Path) -> None:
    folder, count = tmp_path / "runs" / "one", tmp_path / "count"
    code = f"import pathlib; pathlib.Path({str(folder)!r}).mkdir(); open({str(count)!r}, 'a').write('x')"
    for _ in range(2):
        make(folder, [sys.executable, "-c", code])
    assert count.read_text() == "x"
    with pytest.raises(ValueError, match="was made by other settings"):
        make(folder, [sys.executable, "-c", f"{code}; 1"])
    # A run that was broken off left a folder, and no note: it is made anew.
    folder.with_name("one.json").unlink()
    make(folder, [sys.executable, "-c", code])
    assert count.read_text() == "xx"


def test_a_run_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exit code 3: no room .*one\.log"):
        make(tmp_path / "one", [sys.executable, "-c", "print('no room'); exit(3)"])
    assert not (tmp_path / "one.json").exists()
