import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import gc, sys
from vlm.commands.imports import collector_paused, torchmetrics_alone
with collector_paused(), torchmetrics_alone():
    import lightning.pytorch
print([name for name in ("torchmetrics", "matplotlib", "transformers") if name in sys.modules], gc.isenabled())
"""


@pytest.mark.long
def test_lightning_is_imported_without_what_torchmetrics_would_bring() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "['torchmetrics'] True\n", done.stderr


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="torch brings triton on Linux alone")
def test_a_process_whose_imports_are_frozen_ends_without_a_word() -> None:
    code = "from vlm.commands.imports import collector_paused\nwith collector_paused():\n    import torch, triton"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
