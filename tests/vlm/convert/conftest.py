from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.vlm.convert.pretrained import make_model, save

Vlm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vlm(capsys: pytest.CaptureFixture[str]) -> Vlm:
    """Run the command; its exit code, and what it printed."""
    from vlm.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    """A Qwen3-MoE with a head of its own, in float32."""
    return save(make_model("qwen3 moe", torch.float32), tmp_path / "hf")
