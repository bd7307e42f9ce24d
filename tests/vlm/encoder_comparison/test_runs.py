"""Runs of a comparison: known again by their settings, and measured in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlm.backbone import BackboneConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.encoder_comparison.lineup import Contender
from vlm.encoder_comparison.runs import beside, is_made, make, run_folder, run_note
from vlm.model import ModelConfig

MIB = 2**20


@pytest.fixture
def contender() -> Contender:
    backbone = BackboneConfig(
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=2, top_k=1, hidden=8),
        chunk=None,
    )
    model = ModelConfig(tokenizer="demo", encoder="timm:x", connector=ConnectorConfig(), backbone=backbone)
    return Contender(label="a, b", overlay={"encoder": "timm:x"}, model=model, learning={}, vectors=9)


def test_a_command_is_measured_apart_from_who_started_it(tmp_path: Path) -> None:
    own = bytearray(500 * MIB)  # of this process, which must not count
    own[::4096] = b"x" * len(own[::4096])
    code = f"x = bytearray({100 * MIB}); x[::4096] = b'x' * len(x[::4096]); exit(3)"
    command = [sys.executable, "-m", "vlm.encoder_comparison.launch", str(tmp_path / "took.json")]
    done = subprocess.run([*command, sys.executable, "-c", code], check=False)
    assert done.returncode == 3
    took = json.loads((tmp_path / "took.json").read_text())
    assert 100 * MIB < took["peak_bytes"] < 300 * MIB
    assert took["cpu_s"] > 0
    assert 0 < took["seconds"] < 60


def test_a_run_is_known_again_by_all_that_makes_it(tmp_path: Path, contender: Contender) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("trainer: {max_steps: 1}\n")
    folder = run_folder(tmp_path, contender, 3)
    assert folder == tmp_path / "a-b" / "seed-3"
    note = run_note(tmp_path, contender, str(config), 3)
    assert not is_made(folder, note)
    folder.mkdir(parents=True)
    beside(folder, "json").write_text(json.dumps(note))
    assert is_made(folder, note)
    config.write_text("trainer: {max_steps: 2}\n")
    with pytest.raises(ValueError, match=r"seed-3 was made by another config .*name another --out"):
        is_made(folder, run_note(tmp_path, contender, str(config), 3))


@pytest.mark.long
def test_a_training_that_fails_is_told_with_its_last_line_and_begun_anew(tmp_path: Path, contender: Contender) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("no_such_group: 1\n")
    folder = run_folder(tmp_path, contender, 0)
    folder.mkdir(parents=True)
    (folder / "half").touch()  # what a run that was broken off has left
    note = run_note(tmp_path, contender, str(config), 0)
    with pytest.raises(ValueError, match=r"the training of a, b ended with exit code 2: vlm: error: .*seed-0\.log"):
        make(folder, contender, note)
    assert not is_made(folder, note)
    assert not (folder / "half").exists()
