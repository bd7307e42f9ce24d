import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from data.shards import open_shards, write_shard
from vlm.model import VisionLanguageModel

Record = tuple[str, dict[str, bytes]]
Vlm = Callable[..., tuple[int, str, str]]


def losses(run: Path) -> dict[int, float]:
    """Training loss by step, over all versions of the log."""
    found = {}
    for file in sorted(run.glob("logs/*/metrics.csv")):
        for line in csv.DictReader(file.read_text().splitlines()):
            if line.get("train/loss"):
                found[int(line["step"])] = float(line["train/loss"])
    return found


def one_line(errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1, errors
    return lines[0]


def test_a_run_leaves_a_model_logs_a_checkpoint_and_its_config(vlm: Vlm, config: Path) -> None:
    code, out, err = vlm("fit", "--config", str(config))
    run = config.parent / "run"
    assert code == 0, err
    assert sorted(losses(run)) == [1, 2, 3, 4, 5, 6]
    assert (run / "checkpoints" / "last.ckpt").exists()
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] == 1e-2
    assert list(run.glob("tensorboard/events*"))
    VisionLanguageModel.from_pretrained(run / "model")
    for shown in (
        "encoder",
        "backbone",
        "FLOPs per token",
        "4 (2 x 2 from 32 x 32 px)",
        "step     1 of 6",
        "compression text",
    ):
        assert shown in out
    assert "validation at step 3" in out


def test_overlays_and_single_keys_override_in_their_order(vlm: Vlm, config: Path) -> None:
    overlay = config.with_name("overlay.yaml")
    overlay.write_text("optimizer: {lr: 2e-2}\ntrainer: {max_steps: 1}\n")
    code, _, err = vlm("fit", "--config", str(config), "--config", str(overlay), "--optimizer.warmup_steps", "1")
    assert code == 0, err
    used = yaml.safe_load((config.parent / "run" / "config.yaml").read_text())
    assert used["optimizer"]["lr"] == 2e-2
    assert used["optimizer"]["warmup_steps"] == 1
    assert used["backbone"]["width"] == 16


def test_a_resumed_run_has_the_losses_of_the_unbroken_one(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    # The schedule spans max_steps, so a rate without decay is the same in the half run and in the whole one.
    flat = ["--config", str(config), "--optimizer.final_fraction", "1.0"]
    assert vlm("fit", *flat, "--trainer.default_root_dir", str(whole))[0] == 0
    assert vlm("fit", *flat, "--trainer.default_root_dir", str(halves), "--trainer.max_steps", "3")[0] == 0
    last = str(halves / "checkpoints" / "last.ckpt")
    code, _, err = vlm("fit", *flat, "--trainer.default_root_dir", str(halves), "--ckpt_path", last)
    assert code == 0, err
    assert losses(halves) == losses(whole)


def test_validate_tells_loss_and_compression_of_a_checkpoint(vlm: Vlm, config: Path) -> None:
    assert vlm("fit", "--config", str(config))[0] == 0
    last = str(config.parent / "run" / "checkpoints" / "last.ckpt")
    code, out, err = vlm("validate", "--config", str(config), "--ckpt_path", last)
    assert code == 0, err
    assert re.search(r"validation at step \d+ \| loss \d\.\d+ \| compression", out)


def test_a_plain_moe_trains_from_the_same_config_with_chunk_null(vlm: Vlm, config: Path) -> None:
    code, out, err = vlm("fit", "--config", str(config), "--backbone.chunk", "null", "--trainer.max_steps", "2")
    assert code == 0, err
    assert "compression text" not in out


def test_a_frozen_encoder_stays_as_it_was_and_its_features_are_kept(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    cache = tmp_path / "features"
    settings = ["--config", str(config), "--model.freeze", "[encoder]", "--model.feature_cache", str(cache)]
    assert vlm("fit", *settings, "--trainer.max_steps", "1")[0] == 0
    before = VisionLanguageModel.from_pretrained(config.parent / "run" / "model").encoder.state_dict()
    code, _, err = vlm("fit", *settings)
    assert code == 0, err
    assert "encoding pictures" not in err  # the second run finds every feature
    after = VisionLanguageModel.from_pretrained(config.parent / "run" / "model").encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(cache.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--backbone.wdth", "3"], "backbone.wdth"),
        (["--optimizer.lr", "fast"], "optimizer.lr"),
        (
            ["--model.freeze", "[towr]"],
            "'towr', which is no part of this model; parts are backbone, connector, embed, encoder",
        ),
        (["--model.feature_cache", "auto"], "add `encoder` to model.freeze"),
        (["--backbone.chunk.compression", "0.5"], "must be above 1, got 0.5"),
        (["--data.train", "[nowhere.tar]"], "nowhere.tar"),
        (["--encoder", "timm:resnet5000"], "resnet5000"),
        (["--ckpt_path", "gone.ckpt"], "no checkpoint at gone.ckpt"),
        (["--tokenizer", "gone.json"], "gone.json"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_exit_code_2(
    vlm: Vlm, config: Path, arguments: list[str], told: str
) -> None:
    code, _, err = vlm("fit", "--config", str(config), *arguments)
    assert code == 2
    assert told in one_line(err)
    assert not (config.parent / "run" / "model").exists()


def test_an_unknown_config_key_in_the_file_is_named(vlm: Vlm, config: Path) -> None:
    config.write_text(config.read_text() + "colour: blue\n")
    code, _, err = vlm("fit", "--config", str(config))
    assert code == 2
    assert "colour" in one_line(err)


def test_a_key_that_stands_twice_is_refused_with_its_line(vlm: Vlm, config: Path) -> None:
    twice = config.with_name("twice.yaml")
    twice.write_text("optimizer:\n  lr: 1e-3\n  lr: 2e-3\n")
    code, _, err = vlm("fit", "--config", str(config), "--config", str(twice))
    assert code == 2
    assert "'lr' stands twice" in one_line(err)


def test_a_missing_config_lists_those_of_the_package(vlm: Vlm) -> None:
    code, _, err = vlm("fit", "--config", "gone.yaml")
    assert code == 2
    assert "no config 'gone.yaml'" in one_line(err)
    assert "demo.yaml" in err


def test_a_truncated_shard_is_an_error_before_training(vlm: Vlm, config: Path, shards: Path) -> None:
    tar = shards / "a.tar"
    tar.write_bytes(tar.read_bytes()[:-5000])
    code, out, err = vlm("fit", "--config", str(config))
    assert code == 2
    assert "a.tar" in one_line(err)
    assert "step" not in out


def test_bad_pictures_are_skipped_counted_and_named(
    vlm: Vlm, config: Path, shards: Path, bad_records: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    (shards / "dataset.json").unlink()
    good = open_shards(shards / "a.tar")
    write_shard(shards / "a.tar", [good.read(i) for i in range(60)] + bad_records)
    code, _, err = vlm("fit", "--config", str(config))
    assert code == 0, err
    told = err + caplog.text
    assert "0900" in told
    assert "0901" in told
    assert "20,000 x 20,000" in told or "20000 x 20000" in told


def test_a_checkpoint_of_another_architecture_is_refused_by_name(vlm: Vlm, config: Path) -> None:
    assert vlm("fit", "--config", str(config), "--trainer.max_steps", "1")[0] == 0
    last = str(config.parent / "run" / "checkpoints" / "last.ckpt")
    code, _, err = vlm("fit", "--config", str(config), "--backbone.width", "24", "--ckpt_path", last)
    assert code == 2
    assert "holds another architecture than the config" in one_line(err)


def test_an_unwritable_output_folder_is_refused_before_any_work(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = vlm("fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "file" / "run"))
    assert code == 2
    assert "cannot write in" in one_line(err)
    assert out == ""
