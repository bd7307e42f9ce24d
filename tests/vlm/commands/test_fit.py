import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.shards import open_shards, write_shard
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

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


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


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


def test_the_last_checkpoint_is_that_of_the_last_step_also_when_a_run_is_begun_anew(vlm: Vlm, config: Path) -> None:
    last = config.parent / "run" / "checkpoints" / "last.ckpt"
    for steps in (2, 3):
        assert vlm("fit", "--config", str(config), "--trainer.max_steps", str(steps))[0] == 0
        assert torch.load(last, weights_only=True)["global_step"] == steps


def test_a_loss_that_is_no_number_ends_the_run_and_is_never_saved(vlm: Vlm, config: Path) -> None:
    broken = ["--optimizer.lr", "1e30", "--optimizer.warmup_steps", "0", "--trainer.gradient_clip_val", "null"]
    code, _, err = vlm("fit", "--config", str(config), *broken)
    assert code == 2
    assert "the loss is not a number at step 2" in one_line(err)
    assert "optimizer.lr" in err
    assert not list((config.parent / "run").rglob("*.ckpt"))
    assert not (config.parent / "run" / "model").exists()


def test_weights_that_are_no_numbers_are_not_written(vlm: Vlm, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: Any, *args: object, **kwargs: object) -> None:
        self.vlm.embed.weight.grad.fill_(float("nan"))

    monkeypatch.setattr("vlm.training.module.VLMTrainingModule.configure_gradient_clipping", spoil)
    code, _, err = vlm("fit", "--config", str(config), "--trainer.max_steps", "1", "--data.val", "[]")
    assert code == 2
    assert "the weight embed.weight is not a number after step 1" in one_line(err)
    assert not list((config.parent / "run").rglob("*.ckpt"))


def test_bf16_learns_as_float32_does(vlm: Vlm, config: Path) -> None:
    run = config.parent / "run"
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        code, _, err = vlm(
            "fit",
            *("--config", str(config), "--trainer.max_steps", "3"),
            *("--trainer.precision", precision, "--trainer.default_root_dir", str(run / precision)),
        )
        assert code == 0, err
        found[precision] = losses(run / precision)
    # bf16 keeps 8 bits: the boundaries, in float32 from bf16 vectors, differ here and there.
    assert found["bf16-mixed"] == pytest.approx(found["32-true"], rel=0.02)
    assert found["bf16-mixed"] != found["32-true"]


def test_the_logged_rate_is_that_of_the_step(vlm: Vlm, config: Path) -> None:
    assert vlm("fit", "--config", str(config), "--trainer.max_steps", "2", "--optimizer.warmup_steps", "4")[0] == 0
    (log,) = (config.parent / "run").glob("logs/*/metrics.csv")
    lines = list(csv.DictReader(log.read_text().splitlines()))
    assert [float(line["train/learning_rate"]) for line in lines if line["train/loss"]] == [0.0025, 0.005]


def test_each_accumulated_step_is_logged_once_also_over_the_end_of_an_epoch(vlm: Vlm, config: Path) -> None:
    # Three batches of an epoch by two: its last one is a step by itself.
    settings = ["--trainer.accumulate_grad_batches", "2", "--data.steps_per_epoch", "3", "--trainer.max_steps", "4"]
    code, _, err = vlm("fit", "--config", str(config), *settings)
    assert code == 0, err
    assert sorted(losses(config.parent / "run")) == [1, 2, 3, 4]


def test_validate_without_a_checkpoint_is_refused(vlm: Vlm, config: Path) -> None:
    code, _, err = vlm("validate", "--config", str(config))
    assert code == 2
    assert "needs --ckpt_path" in one_line(err)


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
        (["--encoder", "resnet18"], "error: encoder 'resnet18' is neither"),
        (["--trainer.accelerator", "mps"], "trainer: "),
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


def test_without_a_backbone_its_settings_are_named(vlm: Vlm) -> None:
    code, _, err = vlm("fit")
    assert code == 2
    assert "the config's `backbone` lacks width, num_heads" in one_line(err)


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
    assert out == ""
    assert not files(config.parent / "run")


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
    kept = yaml.safe_load((config.parent / "run" / "config.yaml").read_text())
    assert kept["backbone"]["width"] == 16  # the refused run did not take the place of the earlier one


def test_an_unwritable_output_folder_is_refused_before_any_work(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = vlm("fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "file" / "run"))
    assert code == 2
    assert "cannot write in" in one_line(err)
    assert out == ""
