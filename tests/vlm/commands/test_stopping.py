"""Runs that are stopped, killed, or watched in a terminal: each in a process of its own."""

import csv
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]


def start(config: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    command = [sys.executable, "-m", "vlm.cli", "fit", "--config", str(config), *arguments]
    return subprocess.Popen(command, cwd=config.parent, env=env, text=True, preexec_fn=hear_interrupts, **options)


def hear_interrupts() -> None:
    """A shell starts background work with SIGINT ignored, which children inherit; a user's terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def num_logged(run: Path) -> int:
    """Training steps in the log."""
    (log,) = run.glob("logs/*/metrics.csv")
    return sum(bool(line["train/loss"]) for line in csv.DictReader(log.read_text().splitlines()))


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_run_keeps_its_log_writes_no_model_and_says_so_by_its_exit_code(
    config: Path, sent: int, code: int
) -> None:
    run = start(config, "--trainer.max_steps", "100000", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert run.stdout is not None
        while "step    10 of" not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(sent)
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == code
    assert "Traceback" not in err
    assert num_logged(config.parent / "run") >= 10
    assert not (config.parent / "run" / "model").exists()


def test_a_killed_run_has_its_log_up_to_the_end(config: Path) -> None:
    run = start(config, "--trainer.max_steps", "100000", stdout=subprocess.PIPE)
    assert run.stdout is not None
    while "step    10 of" not in run.stdout.readline():
        assert run.poll() is None
    run.kill()
    run.communicate(timeout=60)
    assert num_logged(config.parent / "run") >= 10


@pytest.mark.slow
def test_the_bar_shows_all_figures_in_100_columns(config: Path) -> None:
    ours, theirs = pty.openpty()
    run = start(config, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert run.wait(60) == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "\n").splitlines()
    bars = [line for line in lines if re.search(r"step +\d+/6 .*\d:\d\d:\d\d", line)]
    figures = [line for line in lines if line.startswith("loss ")]
    assert bars
    assert figures
    for word in ("tokens/s", "compression text", "image", "busiest expert", "data wait"):
        assert word in figures[-1]
    assert max(map(len, bars + figures)) <= 100
