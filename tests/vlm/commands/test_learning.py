"""Runs whose parts learn later, by layers or by adapters; and whether a run's loss depends on its pictures."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from data.shards import write_manifest, write_shard
from tests.vlm.commands.conftest import record
from vlm.connector import Connector
from vlm.model import VisionLanguageModel
from vlm.training.checkpoint import AtomicCheckpointIO

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]


def rewrite(config: Path, **groups: Any) -> None:
    read = yaml.safe_load(config.read_text())
    for group, settings in groups.items():
        read[group] = read.get(group, {}) | settings
    config.write_text(yaml.safe_dump(read))


def weights(checkpoint: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], Path]:
    """Keeps each checkpoint under its step."""
    save = AtomicCheckpointIO.save_checkpoint

    def save_and_keep(self: AtomicCheckpointIO, checkpoint: dict[str, Any], path: Any, **options: Any) -> None:
        save(self, checkpoint, path, **options)
        if not (copy := tmp_path / f"step{checkpoint['global_step']}.ckpt").exists():
            shutil.copy(path, copy)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_keep)
    return lambda step: tmp_path / f"step{step}.ckpt"


def test_a_run_with_adapters_layers_and_a_part_that_learns_later_is_resumed_over_the_switch(
    vlm: Vlm, config: Path, kept: Callable[[int], Path], tmp_path: Path
) -> None:
    rewrite(
        config,
        model={
            "freeze": ["embed"],
            "unfreeze": {"connector": 2},
            "lora": {"targets": ["backbone"], "rank": 2, "alpha": 4.0},
            "image_dependence_rows": 0,
        },
        optimizer={"layer_decay": {"backbone": 0.5}},
        checkpoint={"every_steps": 1},
        trainer={"max_steps": 4, "val_check_interval": 1000},
    )
    code, out, err = vlm("fit", "--config", str(config))
    assert code == 0, err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    table = {part: (state, rate) for part, _, state, rate in rows}
    # Three layers: the first one's rate is a quarter.
    assert table["adapters"] == ("learns", "0.0025 to 0.01")
    assert table["connector"] == ("learns after step 2", "0.01")
    assert table["concept layers"] == ("frozen", "")
    steps = {step: weights(kept(step)) for step in (1, 2, 3, 4)}
    connector = [name for name in steps[1] if ".connector." in name]
    assert all(torch.equal(steps[1][name], steps[2][name]) for name in connector)
    assert not any(torch.equal(steps[2][name], steps[3][name]) for name in connector)

    merged = VisionLanguageModel.from_pretrained(tmp_path / "run" / "model")
    name = "backbone.decoder.0.self_attn.o_proj"
    state = {key.removeprefix("vlm."): value for key, value in steps[4].items()}
    a, b = (state[f"{name}.lora_{one}.default.weight"] for one in "AB")
    torch.testing.assert_close(merged.get_parameter(f"{name}.weight"), state[f"{name}.base_layer.weight"] + 2.0 * b @ a)
    assert sorted(file.name for file in (tmp_path / "run" / "lora").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads((tmp_path / "run" / "lora" / "adapter_config.json").read_text())["r"] == 2

    run, resumed = tmp_path / "run", ["--ckpt_path", str(kept(1))]
    code, _, err = vlm("fit", "--config", str(run / "config.yaml"), *resumed)
    assert code == 0, err
    again = weights(run / "checkpoints" / "last.ckpt")
    assert all(torch.equal(again[name], value) for name, value in steps[4].items())

    files = sorted(run.rglob("*"))
    for change, told in (
        (["--model.unfreeze", "{connector: 3}"], "model.unfreeze differs from that of"),
        (["--optimizer.layer_decay", "{backbone: 0.25}"], "{'backbone': 0.5} there and {'backbone': 0.25} here"),
        (["--model.lora", "null"], "model.lora differs from that of"),
    ):
        code, _, err = vlm("fit", "--config", str(config), *resumed, *change)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert told in err
    assert sorted(run.rglob("*")) == files


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model.unfreeze", "{connector: 6}"], "after 6 steps, but the run has 6"),
        (["--optimizer.layer_decay", "{backbone: 1.0}"], "the factor of backbone lies between 0 and 1, got 1.0"),
        (["--model.freeze", "[backbone.decoder:last2]"], "backbone.decoder has 1 layers"),
        (["--model.lora", "{targets: [encoder]}"], "'encoder', in which no weight takes an adapter"),
        (["--model.lora", "{rank: 4}"], "targets"),
        (["--model.image_dependence_rows", "-1"], "must not be negative, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(
    vlm: Vlm, config: Path, arguments: list[str], told: str
) -> None:
    code, _, err = vlm("fit", "--config", str(config), *arguments)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert told in err
    assert list((config.parent / "run").rglob("*")) == []


def test_blocks_are_recomputed_where_asked_and_learn_the_same(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    found = []
    for name, settings in (("kept", []), ("again", ["--model.recompute_blocks", "true"])):
        folder = tmp_path / name
        code, _, err = vlm(
            *("fit", "--config", str(config), "--trainer.max_steps", "2", "--data.val", "[]", *settings),
            *("--trainer.default_root_dir", str(folder)),
        )
        assert code == 0, err
        found.append(VisionLanguageModel.from_pretrained(folder / "model").state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-5, msg=name)


def test_a_run_says_where_its_weights_come_from(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    text = ["--config", str(config), "--encoder", "null", "--data.val", "[]", "--trainer.max_steps", "1"]
    shards = tmp_path / "text"
    shards.mkdir()
    write_shard(shards / "a.tar", [record(3 * i + 2) for i in range(60)])
    write_manifest(shards)
    first = [*text, "--data.train", f"[{shards}]", "--trainer.default_root_dir", str(tmp_path / "text_run")]
    code, out, err = vlm("fit", *first)
    assert code == 0, err
    assert "begins with" not in out
    folder = tmp_path / "text_run" / "model"
    rewrite(config, model={"start": str(folder)}, trainer={"max_steps": 1})
    code, out, err = vlm("fit", "--config", str(config), "--data.val", "[]")
    assert code == 0, err
    assert f"begins with: {folder}; new: connector, encoder" in out.replace("\n", "")


LEARNS_COLOURS = {"max_steps": 60, "val_check_interval": 30, "log_every_n_steps": 60}


def logged(run: Path) -> list[dict[str, str]]:
    (log,) = run.glob("logs/*/metrics.csv")
    return [line for line in csv.DictReader(log.read_text().splitlines()) if line.get("val/same/loss")]


@pytest.mark.parametrize("blind", [False, True])
def test_a_validation_tells_whether_the_loss_depends_on_the_pictures(
    vlm: Vlm, config: Path, monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    rewrite(config, trainer=LEARNS_COLOURS)
    if blind:
        sees = Connector.forward
        monkeypatch.setattr(Connector, "forward", lambda self, features: 0 * sees(self, features))
    code, out, err = vlm("fit", "--config", str(config))
    assert code == 0, err
    lines = logged(config.parent / "run")
    assert len(lines) == 2
    true, other, none = (float(lines[1][f"val/same/loss_{which}_picture"]) for which in ("true", "other", "no"))
    assert len(re.findall(r"loss \d\.\d+ with its picture, \d\.\d+ with another's \(.*\), \d\.\d+ with none", out)) == 2
    before, after = out.split("validation at step 60")
    assert "WARNING" not in before  # a run's first validation says nothing yet
    if blind:
        assert other == pytest.approx(true, abs=1e-4)
        assert "WARNING same: the loss does not depend on the pictures: with another sample's it is" in after
    else:
        assert other > true + 0.1
        assert none > true
        assert "WARNING" not in after
    last = ["--ckpt_path", "last", "--data.num_workers", "0"]
    code, out, err = vlm("validate", "--config", str(config), *last)
    assert code == 0, err
    assert ("WARNING" in out) is blind


@pytest.mark.slow
def test_two_processes_validate_where_one_has_pictures_and_the_other_none(config: Path, shards: Path) -> None:
    text = json.dumps({"id": "text", "content": [{"type": "text", "text": "red is a colour, " * 6}]}).encode()
    texts = [(f"text{i}", {"json": text}) for i in range(8)]
    write_shard(shards / "a.tar", [*texts, *(record(3 * i) for i in range(8))])
    write_manifest(shards)
    rewrite(config, trainer={"max_steps": 2, "val_check_interval": 1, "devices": 2}, data={"row_tokens": 48})
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "vlm.cli", "fit", "--config", str(config)]
    done = subprocess.run(command, cwd=config.parent, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = logged(config.parent / "run")
    assert len(lines) == 2
    assert all(line["val/same/loss_other_picture"] for line in lines)
