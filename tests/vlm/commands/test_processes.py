"""`vlm fit` on two processes, through the command line: both launchers, the feature cache, validation, resuming."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm.model import VisionLanguageModel

ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def fit(launcher: list[str], *arguments: str, cwd: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "-m", "vlm.cli", "fit", "--trainer.devices", "2", *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def logged(run: Path, column: str) -> dict[int, float]:
    """A column of the log by step, over all versions of it."""
    lines = [
        line
        for file in sorted(run.glob("logs/*/metrics.csv"))
        for line in csv.DictReader(file.read_text().splitlines())
    ]
    return {int(line["step"]): float(line[column]) for line in lines if line.get(column)}


@pytest.mark.slow
def test_torchrun_resumes_two_processes_where_they_were_with_cached_features(config: Path, tmp_path: Path) -> None:
    # The schedule spans max_steps, so a rate without decay is the same in the half run and in the whole one.
    flat = ["--config", str(config), "--optimizer.final_fraction", "1.0", "--trainer.accelerator", "cpu"]
    flat += ["--model.freeze", "[encoder]", "--model.feature_cache", str(tmp_path / "features")]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    out = fit(TORCHRUN, *flat, "--trainer.default_root_dir", str(whole), cwd=tmp_path)
    assert out.count("what trains") == 1
    assert out.count("validation at step 3") == 1
    halved = [*flat, "--trainer.default_root_dir", str(halves)]
    fit(TORCHRUN, *halved, "--trainer.max_steps", "3", cwd=tmp_path)
    fit(TORCHRUN, *halved, "--ckpt_path", str(halves / "checkpoints" / "last.ckpt"), cwd=tmp_path)
    assert sorted(logged(whole, "train/loss")) == [1, 2, 3, 4, 5, 6]
    assert logged(halves, "train/loss") == logged(whole, "train/loss")
    assert logged(halves, "val/loss") == logged(whole, "val/loss")
    VisionLanguageModel.from_pretrained(halves / "model")


@pytest.mark.slow
def test_two_devices_need_no_launcher(config: Path, tmp_path: Path) -> None:
    settings = ["--config", str(config), "--trainer.max_steps", "2", "--trainer.strategy", "ddp"]
    out = fit([], *settings, cwd=tmp_path)
    assert "step     2 of 2" in out
    VisionLanguageModel.from_pretrained(config.parent / "run" / "model")
