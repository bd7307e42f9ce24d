"""`vlm compare` through its own command line."""

import json
from pathlib import Path

import pytest

from vlm.cli import main


def run_folder(folder: Path, loss: float) -> Path:
    logs = folder / "logs" / "version_0"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text(f"step,train/loss,val/loss\n1,9.0,\n2,,5.0\n3,,{loss}\n")
    return folder


def test_the_last_validation_losses_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [str(run_folder(tmp_path / f"a{i}", 1.0 + i / 10)) for i in range(3)]
    second = [str(run_folder(tmp_path / f"b{i}", 2.0 + i / 10)) for i in range(3)]
    assert main(["compare", *first, "--with", *second, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert (row["name"], row["covers"]) == ("val/loss", "seeds")
    assert row["difference"] == pytest.approx(-1.0)
    assert main(["compare", *first, "--with", *second]) == 0
    assert "1.100 ± 0.100" in capsys.readouterr().out


def test_a_folder_that_is_none_and_runs_without_figures_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, empty = run_folder(tmp_path / "a", 1.0), tmp_path / "empty"
    empty.mkdir()
    assert main(["compare", str(run), "--with", str(tmp_path / "none")]) == 2
    assert "none is no folder" in capsys.readouterr().err
    assert main(["compare", str(run), "--with", str(empty)]) == 2
    assert "no score and no validation loss in common" in capsys.readouterr().err


def test_a_run_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = run_folder(tmp_path / "a", 1.0), run_folder(tmp_path / "b", 2.0)
    for runs in ([first, tmp_path / "a" / ".." / "a"], [first, second]):
        assert main(["compare", *map(str, runs), "--with", str(second)]) == 2
        assert "is named more than once" in capsys.readouterr().err
