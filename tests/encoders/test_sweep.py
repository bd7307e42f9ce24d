"""A sample of the sweep over timm and open_clip (tests/encoders/sweep.py) in `make test`, all of it in `make sweep`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.encoders.sweep import LIST, MAX_PARAMETERS, read_list, try_model

ROOT = Path(__file__).resolve().parents[2]
# A plain ViT, a convolutional one, a pyramid, one whose tokens come in two streams, one with branches that no map needs.
SAMPLE = (
    ("timm:deit_tiny_patch16_224", 64),
    ("timm:lcnet_035", 64),
    ("timm:pvt_v2_b0", 64),
    ("timm:pit_ti_224", None),
    ("timm:hrnet_w18_small", 64),
    ("open_clip:ViT-S-32", 64),
    ("open_clip:PE-Core-T-16-384", 64),
)


@pytest.mark.long
@pytest.mark.parametrize(("name", "size_px"), SAMPLE)
@pytest.mark.filterwarnings("default")  # of the libraries, not ours
def test_a_sample_passes_the_check_and_trains_behind_the_whole_model(name: str, size_px: int | None) -> None:
    assert name in {model["name"] for model in read_list()}
    found = try_model(name, size_px)
    assert (found["passed"], found["reason"]) == (True, "")


@pytest.mark.long
def test_the_list_has_every_family_of_timm_and_every_tower_of_open_clip() -> None:
    import open_clip
    import timm
    from timm.models import _registry

    stored = json.loads(LIST.read_text())
    names = [model["name"] for part in ("models", "too_large") for model in stored[part]]
    families = {_registry._model_to_module[name.removeprefix("timm:")] for name in names if name.startswith("timm:")}
    assert families == set(timm.list_modules()), "run python -m tests.encoders.sweep list"
    towers = {name.removeprefix("open_clip:") for name in names if name.startswith("open_clip:")}
    assert towers == set(open_clip.list_models())
    assert len(names) == len(set(names))
    assert all(model["parameters"] <= MAX_PARAMETERS for model in stored["models"])
    assert all(model["parameters"] > MAX_PARAMETERS for model in stored["too_large"])


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_stopped_and_tells_what_failed(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    first, second = "timm:lcnet_035", "timm:mobilenetv2_035"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def sweep(*names: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.encoders.sweep", "run", str(results), *names]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)

    assert sweep(first).returncode == 0
    (line,) = map(json.loads, results.read_text().splitlines())
    assert (line["name"], line["passed"]) == (first, True)
    # What stands there is believed: the failure below was never a run.
    results.write_text(json.dumps({**line, "passed": False, "reason": "made up"}) + "\n")
    done = sweep(first, second)
    assert [json.loads(line)["name"] for line in results.read_text().splitlines()] == [first, second]
    assert done.returncode == 1
    assert done.stdout.endswith(f"1 of 2 passed\n{first}: made up\n")


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_of_all_models_97_percent_pass() -> None:
    results = ROOT / "runs" / "sweep" / "results.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tests.encoders.sweep", "run", str(results)], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
