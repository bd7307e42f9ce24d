"""`vlm bench prefill`, `decode` and `plot` from the command line: tables, JSON, drawings, and what is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlm.backbone import BackboneConfig
from vlm.bench.plot import draw, draw_figure, read_measurements
from vlm.cli import main

pytestmark = pytest.mark.long

Bench = Callable[..., str]
ROUNDS = ("--models", "1L", "--rounds", "1", "--device", "cpu")


@pytest.fixture
def bench(small: BackboneConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.setattr("vlm.bench.lineup.PLAIN", small)

    def run(*arguments: str) -> str:
        assert main(["bench", *arguments]) == 0
        return capsys.readouterr().out

    return run


def rows(kind: str, lengths: tuple[int, ...], batch: int = 1) -> list[dict[str, Any]]:
    more = {"p95_s": 0.2, "kv_bytes": 10.0, "kv_bytes_predicted": 9.0} if kind == "decode" else {}
    speeds = {"plain MoE": 1.0, "1L-top5-R2": 1.5, "transformers, DynamicCache": 0.7}
    return [
        {"model": name, "batch": batch, "length": length, "seconds": 0.1 / speed, "spread": 0.02, "tokens_per_s": 9.0}
        | {"speed": speed, "predicted": max(speed, 1.0), "compression": None}
        | more
        for length in lengths
        for name, speed in speeds.items()
    ]


def saved(folder: Path, name: str, kind: str, lengths: tuple[int, ...]) -> Path:
    file = folder / name
    file.write_text(json.dumps({"bench": kind, "results": rows(kind, lengths)}))
    return file


def test_prefill_prints_json_with_its_settings_and_draws(bench: Bench, tmp_path: Path) -> None:
    drawing = tmp_path / "a.svg"
    printed = json.loads(
        bench("prefill", "--lengths", "32,16", "--batch", "1,2", "--json", "--plot", str(drawing), *ROUNDS)
    )
    assert printed["bench"] == "prefill"
    assert printed["boundaries"] == "R=2, 2.000 tokens per concept"
    assert printed["device"].startswith("CPU")
    assert [(row["length"], row["batch"]) for row in printed["results"]] == [
        place for place in [(16, 1), (16, 2), (32, 1), (32, 2)] for _ in range(2)
    ]
    keys = {"model", "batch", "length", "seconds", "spread", "tokens_per_s", "speed", "predicted", "compression"}
    assert set(printed["results"][0]) == keys
    assert "<svg" in drawing.read_text()


def test_decode_prints_a_table(bench: Bench) -> None:
    printed = bench("decode", "--lengths", "40", "--batch", "1,3", "--steps", "4", "--dtype", "bf16", *ROUNDS)
    head = next(line for line in printed.splitlines() if line.startswith("model"))
    for column in ("step", "p95", "tokens/s", "speed", "predicted", "of it", "KV bytes/token"):
        assert column in head
    assert sum(line.startswith("1L-top8-R2") for line in printed.splitlines()) == 2
    assert "dtype bf16" in printed


def test_decode_says_what_it_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.bench.decode.available_bytes", lambda device: 0)
    printed = bench("decode", "--lengths", "40", "--batch", "2", "--steps", "4", *ROUNDS)
    assert "decode of 2 x 40 left out: the caches of all models need" in printed


def test_saved_measurements_become_one_drawing_and_their_tables(bench: Bench, tmp_path: Path) -> None:
    files = [
        saved(tmp_path, "d.json", "decode", (4096,)),
        saved(tmp_path, "p.json", "prefill", (1024, 4096)),
        saved(tmp_path, "e.json", "decode", (1024,)),
    ]
    out = tmp_path / "fig.png"
    printed = bench("plot", *map(str, files), "--out", str(out))
    assert out.read_bytes().startswith(b"\x89PNG")
    assert printed.splitlines()[0] == "prefill"
    assert printed.count("1L-top5-R2") == 4
    assert printed.splitlines()[-1] == str(out)
    measured = read_measurements(files)
    assert list(measured) == ["prefill", "decode"]
    assert [row["length"] for row in measured["decode"]] == [1024] * 3 + [4096] * 3


def test_every_kind_and_batch_has_a_panel_that_shows_all_of_its_lines() -> None:
    faster = [{**row, "speed": 4 * row["speed"]} for row in rows("decode", (1024, 4096), batch=8)]
    figure = draw_figure({"prefill": rows("prefill", (1024,)), "decode": rows("decode", (1024, 4096)) + faster})
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "Prefill, batch 1",
        "Decoding, batch 1",
        "Decoding, batch 8",
    ]
    for axis in figure.axes:
        low, high = axis.get_ylim()
        assert low == 0
        assert high > 4 * 1.5
        assert [line.get_label() for line in axis.lines if not line.get_label().startswith("_")] == [
            "plain MoE",
            "1L-top5-R2",
            "transformers, DynamicCache",
            "predicted by the cost model",
        ]
    assert [list(line.get_ydata()) for line in figure.axes[2].lines if line.get_label() == "1L-top5-R2"] == [[6.0, 6.0]]


def test_files_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    decode = saved(tmp_path, "d.json", "decode", (1024,))
    with pytest.raises(ValueError, match="is in another file too"):
        read_measurements([decode, decode])
    with pytest.raises(ValueError, match="is a measurement of 'train'"):
        read_measurements([saved(tmp_path, "t.json", "train", (1024,))])
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="holds no measurement of"):
        read_measurements([tmp_path / "x.json"])
    with pytest.raises(ValueError, match="nothing was measured"):
        draw({}, tmp_path / "x.svg")


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ({}, "results needs to be a list, got dict"),
        (None, "results needs to be a list, got NoneType"),
        ([1], "result 1 needs to be an object, got int"),
        ([{}], "result 1 needs a name as model, got nothing"),
        ([rows("decode", (8,))[0], {"model": "a"}], "result 2 needs a whole number above 0 as batch, got nothing"),
        ([rows("decode", (8,))[0] | {"length": "8"}], "result 1 needs a whole number above 0 as length, got '8'"),
        ([rows("decode", (8,))[0] | {"predicted": 0}], "result 1 needs a number above 0 as predicted, got 0"),
        ([rows("decode", (8,))[0] | {"speed": float("nan")}], "result 1 needs a number, 0 or above as speed, got nan"),
        (rows("prefill", (8,)), "result 1 needs a number, 0 or above as p95_s, got nothing"),
    ],
)
def test_results_of_another_form_are_one_line_that_names_the_file(
    results: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd.json"
    file.write_text(json.dumps({"bench": "decode", "results": results}))
    assert main(["bench", "plot", str(file), "--out", str(tmp_path / "x.svg")]) == 2
    err = capsys.readouterr().err
    assert f"{file}: {told}; give the file as" in err
    assert err.count("\n") == 1


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    with pytest.raises(ImportError, match=r"the extra \[plots\]: pip install conceptvlm\[plots\]"):
        draw({"decode": rows("decode", (1024,))}, tmp_path / "x.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--threads", "0"], "--threads must be at least 1, got 0"),
        (
            ["decode", "--lengths", "1024,0"],
            "--lengths takes whole numbers above 0 with commas between them, got '1024,0'",
        ),
        (["prefill", "--batch", "x"], "--batch takes whole numbers above 0"),
        (["decode", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["decode", "--lengths", "64"], "a length of 64 leaves no prompt before 8 rounds of 16 steps"),
        (
            ["prefill", "--compression", "1"],
            "--compression is tokens per concept and must be above 1 and at most 1000, got 1",
        ),
        (["decode", "--compression", "inf"], "must be above 1 and at most 1000, got inf"),
        (["decode", "--compression", "nan"], "must be above 1 and at most 1000, got nan"),
        (["prefill", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["prefill", "--kv-heads", "4"], "--kv-heads must divide the 6 query heads, got 4"),
        (["prefill", "--models", "9L"], "unknown model '9L'; known: plain MoE"),
        (["prefill", "--pattern", "/nowhere"], "no model folder at /nowhere"),
        (["prefill", "--plot", "x.gif"], "x.gif: a drawing ends in .svg, .png, .pdf"),
        (["prefill", "--plot", "/nowhere/x.svg"], "there is no folder /nowhere"),
        (["plot", "/nowhere.json", "--out", "x.svg"], "/nowhere.json: No such file"),
    ],
)
def test_bad_settings_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_a_missing_transformers_is_one_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert main(["bench", "decode", "--lengths", "1024", "--device", "cpu"]) == 2
    assert "needs the extra [hf]" in capsys.readouterr().err
