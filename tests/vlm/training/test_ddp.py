import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("ten_steps.py")


def run(out: Path, launcher: list[str]) -> dict[str, Any]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(out)], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.mark.long
def test_two_processes_one_of_them_with_text_alone_learn_what_one_process_learns(tmp_path: Path) -> None:
    one = run(tmp_path / "one.json", [])
    two = run(tmp_path / "two.json", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    assert len(one["losses"]) == 10
    assert one["losses"][-1] < one["losses"][0] - 0.5  # it learns, or equality would say little
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
