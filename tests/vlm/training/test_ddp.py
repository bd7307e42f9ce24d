import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("ten_steps.py")


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(out: Path, launcher: list[str], **settings: Any) -> dict[str, Any]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(SCRIPT), str(out), json.dumps(settings)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.mark.long
def test_two_processes_one_of_them_with_text_alone_learn_what_one_process_learns(tmp_path: Path) -> None:
    one = run(tmp_path / "one.json", [])
    two = run(tmp_path / "two.json", TWO)
    assert len(one["losses"]) == 10
    assert one["losses"][-1] < one["losses"][0] - 0.5  # it learns, or equality would say little
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)


@pytest.mark.slow
def test_parts_that_learn_later_and_adapters_do_in_two_processes_what_they_do_in_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "unfreeze": {"encoder": 7, "backbone.decoder": 3},
        "lora": {"targets": ["backbone.concept", "backbone.decoder"], "rank": 2},
    }
    one, two = run(tmp_path / "one.json", [], **settings), run(tmp_path / "two.json", TWO, **settings)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert two["moved"] == one["moved"]
    moved = one["moved"]
    first = {name: moved.get(name) for name in one["weights"]}
    for name, step in first.items():
        if name.startswith("encoder."):
            assert step == 8, name
        elif name.startswith(("backbone.concept.", "backbone.decoder.")):
            later = 3 if name.startswith("backbone.decoder.") else 0
            # B begins at zero, so that A has a gradient from the second step on; its decay moves it at the first.
            assert step == (later + 1 if ".lora_" in name else None), name
        else:
            assert step == 1, name
