"""Runs in which some parts learn and others do not, or at another rate, through the real command."""

import csv
import json
import os
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
from tests.vlm.convert.pretrained import make_model, save
from vlm.convert.from_hf import import_model
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long
Vlm = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def weights(folder: Path) -> dict[str, Tensor]:
    return VisionLanguageModel.from_pretrained(folder).state_dict()


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    """Names of the weights that are bit-equal in both."""
    assert first.keys() == second.keys()
    return {name for name in first if torch.equal(first[name], second[name])}


def of(parts: str, names: dict[str, Tensor]) -> set[str]:
    return {name for name in names if name.startswith(tuple(parts.split()))}


@pytest.fixture
def fit(vlm: Vlm, config: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run the tiny config with other settings, in a folder of its own; its model folder."""

    def run(name: str, *arguments: str, **settings: Any) -> Path:
        rewrite(config, **settings)
        code, _, err = vlm(
            "fit", "--config", str(config), *arguments, "--trainer.default_root_dir", str(tmp_path / name)
        )
        assert code == 0, err
        return tmp_path / name / "model"

    return run


def rewrite(config: Path, **settings: Any) -> None:
    """Two steps without validation; the groups given are taken as they are."""
    read = yaml.safe_load(config.read_text())
    read["trainer"] |= {"max_steps": 2, "val_check_interval": 1000}
    read["data"] |= {"val": []}
    config.write_text(yaml.safe_dump(read | {"model": {}} | settings))


@pytest.fixture
def like_the_folder(config: Path, model_folder: Path) -> None:
    """The config starts from a ConceptMoE that was saved with its encoder and connector."""
    encoder = yaml.safe_load((model_folder / "config.yaml").read_text())["encoder"]
    rewrite(config, backbone=str(model_folder), encoder=encoder)


def test_the_connector_of_an_imported_model_learns_alone_then_everything_from_the_folder_of_that_run(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "cache"))
    hf_folder = save(make_model("qwen3 moe", torch.bfloat16, max_position_embeddings=256), tmp_path / "hf")
    import_model(str(hf_folder), tmp_path / "source")
    source = {name: value.float() for name, value in weights(tmp_path / "source").items()}

    first = weights(fit("first", backbone=f"hf:{hf_folder}", model={"train_only": ["connector"]}))
    assert equal(source, {name: first[name] for name in source}) == source.keys()
    assert not first["connector.norm.weight"].eq(1).any()  # as it begins
    assert first.keys() - source.keys() == of("connector encoder", first)

    aligned = str(tmp_path / "first" / "model")
    rest = weights(fit("rest", backbone=aligned, model={"freeze": ["connector", "encoder"]}))
    assert equal(first, rest) == of("connector encoder", first)
    everything = weights(fit("everything", backbone=aligned))
    assert equal(first, everything) == set()


def test_text_alone_leaves_all_but_the_connector_as_it_was(
    fit: Callable[..., Path], like_the_folder: None, model_folder: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "text"
    shards.mkdir()
    write_shard(shards / "a.tar", [record(3 * i + 2) for i in range(60)])
    write_manifest(shards)
    source = weights(model_folder)
    after = weights(fit("run", "--data.train", f"[{shards}]", model={"train_only": ["connector"]}))
    # Its gradient is zero, and AdamW shrinks its matrices nevertheless.
    assert equal(source, after) == source.keys() - {"connector.up_proj.weight", "connector.down_proj.weight"}


def test_patterns_and_rates_of_parts_hold_in_a_run_and_stand_in_its_table(
    vlm: Vlm, config: Path, like_the_folder: None, model_folder: Path, tmp_path: Path
) -> None:
    rewrite(
        config,
        model={"train_only": ["backbone", "encoder"], "freeze": ["backbone.concept.*.mlp.gate"]},
        optimizer={"lr": 0.01, "lr_of": {"encoder": 1e-30, "backbone.chunker": 1e-3}},
    )
    code, out, err = vlm("fit", "--config", str(config))
    assert code == 0, err
    source, after = weights(model_folder), weights(tmp_path / "run" / "model")
    # A step of 1e-30 is lost in float32.
    assert equal(source, after) == of("encoder connector embed backbone.concept.0.mlp.gate", source)
    moved = {
        part: (after[part] - source[part]).abs().max()
        for part in ("backbone.chunker.q_proj.weight", "backbone.norm.weight")
    }
    assert moved["backbone.chunker.q_proj.weight"] < 0.2 * moved["backbone.norm.weight"]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    table = {part: (state, lr) for part, _, state, lr in rows}
    assert table["encoder"] == ("learns", "1e-30")
    assert table["connector"] == ("frozen", "")
    assert table["chunker"] == ("learns", "0.001")
    assert table["concept layers"][0].endswith(" learn")
    learning = sum(
        value.numel()
        for name, value in source.items()
        if name in of("backbone encoder", source) and "concept.0.mlp.gate" not in name
    )
    assert table["all"] == (f"{learning:,} learn", "1e-30 to 0.01")


def test_a_resumed_run_keeps_the_rates_of_parts_and_refuses_others(
    vlm: Vlm, config: Path, fit: Callable[..., Path], tmp_path: Path
) -> None:
    rates = {"connector": 1e-3, "backbone.chunker": 3e-3}

    def settings(lr_of: dict[str, float]) -> dict[str, Any]:  # without decay the schedule does not depend on max_steps
        return {"optimizer": {"lr": 1e-2, "lr_of": lr_of, "warmup_steps": 1, "final_fraction": 1.0}}

    whole = weights(fit("whole", "--trainer.max_steps", "3", **settings(rates)))
    fit("halves", **settings(rates))
    files = sorted((tmp_path / "halves").rglob("*"))
    rewrite(config, **settings(rates | {"connector": 2e-3}))
    flat = ["--config", str(config), "--trainer.default_root_dir", str(tmp_path / "halves"), "--ckpt_path", "last"]
    for change, told in (
        ([], "0.001 there and would with 0.002 here"),
        (["--optimizer.lr_of", "{}"], "with 0.01 here"),
    ):
        code, _, err = vlm("fit", *flat, *change)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert "optimizer.lr or optimizer.lr_of differs from that of" in err
        assert "weights (such as connector.norm.weight) learned with" in err
        assert told in err
    assert sorted((tmp_path / "halves").rglob("*")) == files
    turned = dict(reversed(rates.items()))
    halves = weights(fit("halves", "--trainer.max_steps", "3", "--ckpt_path", "last", **settings(turned)))
    assert equal(whole, halves) == whole.keys()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--encoder.width", "12"], "there and (12,) here"),
        (["--connector.merge", "2"], "connector.norm.bias is (24,) there and (96,) here"),
        (["--encoder", "null"], "it has unknown connector."),
    ],
)
def test_another_encoder_or_connector_than_the_start_folders_is_refused(
    vlm: Vlm, config: Path, like_the_folder: None, model_folder: Path, change: list[str], told: str
) -> None:
    code, _, err = vlm("fit", "--config", str(config), *change)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert f"{model_folder} cannot start this model" in err
    assert told in err
    assert "use the config that it was saved with" in err


@pytest.mark.slow
def test_two_processes_train_the_connector_alone_on_rows_with_and_without_pictures(
    config: Path, like_the_folder: None, model_folder: Path, shards: Path, tmp_path: Path
) -> None:
    # A row holds one record: now one process has a picture, now the other, now both or none.
    text = json.dumps({"id": "text", "content": [{"type": "text", "text": "red is a colour, " * 6}]}).encode()
    texts = [(f"text{i}", {"json": text}) for i in range(60)]
    write_shard(shards / "a.tar", [*texts, *(record(3 * i) for i in range(60))])
    write_manifest(shards)
    rewrite(config, model={"train_only": ["connector"]})
    settings = ["--data.row_tokens", "48", "--trainer.max_steps", "8", "--trainer.devices", "2"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *TORCHRUN, "-m", "vlm.cli", "fit", "--config", str(config), *settings]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    source, after = weights(model_folder), weights(tmp_path / "run" / "model")
    assert equal(source, after) == source.keys() - of("connector", source)
    (log,) = (tmp_path / "run").glob("logs/*/metrics.csv")
    lines = [line for line in csv.DictReader(log.read_text().splitlines()) if line["train/loss"]]
    with_pictures = [bool(line["train/compression_image"]) for line in lines]
    assert 0 < sum(with_pictures) < len(with_pictures) == 8
