"""`vlm encoder compare` through its own command line."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

Vlm = Callable[..., tuple[int, str, str]]
PATCH = "encoders.patch_encoder.PatchEncoder"
ENCODERS = f"""
wide <12>: {{name: {PATCH}, size_px: 32, patch_px: 16, width: 12}}
narrow: {{encoder: {{name: {PATCH}, size_px: 32, patch_px: 16, width: 6}}, model: {{freeze: [encoder]}}}}
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0,x"], "--seeds are whole numbers with commas between them, got '0,x'"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--tasks", "demo/nothing"], "unknown task 'demo/nothing'"),
        (["--config", "none.yaml"], "no config 'none.yaml'"),
        (["--encoders", "none.yaml"], "no config 'none.yaml'"),
        (["--encoders", "timm:a,timm:a"], "--encoders names 'timm:a' twice"),
        (["--encoders", "timm:a"], "a comparison needs two or more"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    vlm: Vlm, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    code, printed, err = vlm("encoder", "compare", "--out", str(out), *arguments)
    assert (code, printed) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.slow
def test_two_encoders_are_trained_scored_and_shown_and_nothing_is_done_twice(
    vlm: Vlm, config: Path, tmp_path: Path
) -> None:
    encoders, out = tmp_path / "encoders.yaml", tmp_path / "out"
    encoders.write_text(ENCODERS)
    what = ["--encoders", str(encoders), "--config", str(config), "--out", str(out), "--seeds", "0"]
    asked = ["--tasks", "demo/presence,demo/counting", "--limit", "4", "--json"]
    settings = ["--set", "trainer.max_steps=2", "--set", "trainer.val_check_interval=2"]
    code, printed, err = vlm("encoder", "compare", *what, *asked, *settings)
    assert code == 0, err
    found = json.loads(printed)
    wide, narrow = found["results"]
    assert (wide["label"], narrow["label"]) == ("wide <12>", "narrow")
    weights = 12 * (3 * 16 * 16 + 1)
    assert (wide["cost"]["learned"], wide["cost"]["frozen"], wide["cost"]["learns"]) == (weights, 0, "trained")
    assert (narrow["cost"]["learned"], narrow["cost"]["frozen"], narrow["cost"]["learns"]) == (
        0,
        weights // 2,
        "frozen",
    )
    assert wide["cost"]["vectors"] == narrow["cost"]["vectors"] == 4
    # 4 patches, each a product of 768 values with so many columns; a multiply-add is 2.
    assert wide["cost"]["flops"] == 2 * 4 * 768 * 12
    assert list(wide["scores"]) == ["demo/presence", "demo/counting"]
    assert wide["peak_bytes"] > 2**28
    assert [one["name"] for one in found["less_first"]["narrow"]] == ["demo/presence", "demo/counting"]
    page = (out / "report.html").read_text()
    assert "wide &lt;12&gt;" in page
    assert "<script" not in page
    assert not re.search(r"https?://", page)
    folder = out / "wide-12" / "seed-0"
    assert (folder / "limit-4" / "scores.json").is_file()
    trained = (folder / "model" / "config.yaml").stat().st_mtime_ns
    code, printed, err = vlm("encoder", "compare", *what, *asked, *settings)
    assert code == 0, err
    again = json.loads(printed)
    assert (folder / "model" / "config.yaml").stat().st_mtime_ns == trained
    assert [one["scores"] for one in again["results"]] == [one["scores"] for one in found["results"]]
    code, _, err = vlm("encoder", "compare", *what, *asked, "--set", "trainer.max_steps=3")
    assert code == 2
    assert "was made by another overlay" in err
