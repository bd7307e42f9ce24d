import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm.training.module import VLMTrainingModule

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_three_training_steps_with_compiled_blocks_have_the_losses_of_plain_ones(tmp_path: Path) -> None:
    """In a process of its own: the runtime type check of the tests' import hook breaks torch.compile."""
    out, script = tmp_path / "losses.json", Path(__file__).with_name("compiled_steps.py")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(script), str(out)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert len(found["plain"]) == 3
    assert found["plain"][2] < found["plain"][0]
    assert found["compiled"] == pytest.approx(found["plain"], rel=1e-5)


def test_blocks_are_compiled_and_recomputed_where_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("ten_steps", Path(__file__).with_name("ten_steps.py"))
    assert spec is not None
    assert spec.loader is not None
    steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(steps)
    config, optimizer = steps.model().vlm.config, steps.model().optimizer_config
    backbone = VLMTrainingModule(config, optimizer, compile_blocks=True, recompute_blocks=True).vlm.backbone
    assert backbone.recompute_blocks
    assert all(block._compiled is not None for block in (*backbone.encoder, *backbone.concept, *backbone.decoder))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="compile_blocks: false"):
        VLMTrainingModule(config, optimizer, compile_blocks=True)
