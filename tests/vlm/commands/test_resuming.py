"""Going on with a run: what must be as it was, and what a refusal leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.shards import open_shards, write_shard
from vlm.training.checkpoint import AtomicCheckpointIO

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
Record = tuple[str, dict[str, bytes]]


def one_line(errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1, errors
    return lines[0]


def test_another_freeze_than_the_checkpoints_is_refused_by_the_weights_it_changes(
    vlm: Vlm, config: Path, tmp_path: Path
) -> None:
    flat = ["--config", str(config), "--trainer.max_steps", "1"]
    assert vlm("fit", *flat, "--model.freeze", "[connector]")[0] == 0
    last = str(config.parent / "run" / "checkpoints" / "last.ckpt")
    new = ["--trainer.default_root_dir", str(tmp_path / "new"), "--ckpt_path", last]
    code, _, err = vlm("fit", *flat, "--model.freeze", "[encoder]", *new)
    assert code == 2
    told = one_line(err)
    assert "model.freeze differs from that of" in told
    assert "weights (such as encoder." in told
    assert "learned there and are frozen here, and" in told
    assert "weights (such as connector." in told
    assert list((tmp_path / "new").rglob("*")) == []


def test_last_is_the_last_checkpoint_of_the_folder(vlm: Vlm, config: Path) -> None:
    assert vlm("fit", "--config", str(config), "--trainer.max_steps", "2")[0] == 0
    code, out, err = vlm("fit", "--config", str(config), "--trainer.max_steps", "3", "--ckpt_path", "last")
    assert code == 0, err
    assert "step     3 of 3" in out
    assert "step     1 of 3" not in out


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_last_without_a_checkpoint_is_refused(vlm: Vlm, config: Path, command: str) -> None:
    code, _, err = vlm(command, "--config", str(config), "--ckpt_path", "last")
    assert code == 2
    assert "--ckpt_path last: there is no checkpoint at" in one_line(err)
    assert list((config.parent / "run").rglob("*")) == []


def test_checkpoints_are_written_as_often_as_asked_and_the_interval_may_change(
    vlm: Vlm, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, save = ["--config", str(config), "--trainer.max_steps", "5"], AtomicCheckpointIO.save_checkpoint
    saved: list[int] = []
    monkeypatch.setattr(
        "vlm.training.checkpoint.AtomicCheckpointIO.save_checkpoint",
        lambda self, checkpoint, path, **_: saved.append(checkpoint["global_step"]) or save(self, checkpoint, path),
    )
    assert vlm("fit", *settings, "--checkpoint.every_steps", "2")[0] == 0
    last = config.parent / "run" / "checkpoints" / "last.ckpt"
    assert saved == [2, 4, 5]
    assert torch.load(last, weights_only=True)["global_step"] == 5
    more = ["--trainer.max_steps", "6", "--checkpoint.every_steps", "1", "--ckpt_path", "last"]
    code, _, err = vlm("fit", *settings, *more)
    assert (code, err) == (0, "")
    assert saved == [2, 4, 5, 6]


def test_an_interval_of_no_steps_is_refused(vlm: Vlm, config: Path) -> None:
    code, _, err = vlm("fit", "--config", str(config), "--checkpoint.every_steps", "0")
    assert code == 2
    assert "checkpoint.every_steps must be at least 1, got 0" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ckpt_path", "gone.ckpt"], "no checkpoint at gone.ckpt"),
        (["--trainer.max_steps", "-1"], "set trainer.max_steps"),
        (["--model.freeze", "[encoder, connector, embed, backbone]"], "there is nothing to train"),
        (["--data.row_tokens", "2"], "0 usable records"),
    ],
)
def test_a_refused_run_leaves_nothing_behind(vlm: Vlm, config: Path, arguments: list[str], told: str) -> None:
    code, _, err = vlm("fit", "--config", str(config), *arguments)
    assert code == 2
    assert told in err
    assert list((config.parent / "run").rglob("*")) == []


def test_other_data_than_the_checkpoints_are_refused_by_what_differs(vlm: Vlm, config: Path) -> None:
    flat = ["--config", str(config), "--trainer.max_steps"]
    assert vlm("fit", *flat, "1")[0] == 0
    code, _, err = vlm("fit", *flat, "2", "--ckpt_path", "last", "--data.row_tokens", "100", "--data.overlong", "cut")
    assert code == 2
    assert "(overlong was drop, is cut; row_tokens was 128, is 100; window was" in one_line(err)


def test_bad_records_are_listed_once_in_the_runs_folder_also_when_it_goes_on(
    vlm: Vlm, config: Path, shards: Path, bad_records: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    (shards / "dataset.json").unlink()
    good = open_shards(shards / "a.tar")
    write_shard(shards / "a.tar", [good.read(i) for i in range(60)] + bad_records)
    listed = config.parent / "run" / "quarantine.jsonl"
    for steps, more in (("2", ()), ("4", ("--ckpt_path", "last"))):
        caplog.clear()
        code, _, err = vlm("fit", "--config", str(config), "--trainer.max_steps", steps, *more)
        assert code == 0, err
        lines = [json.loads(line) for line in listed.read_text().splitlines()]
        assert sorted((line["key"], line["reason"]) for line in lines) == [
            ("0900", "corrupt picture"),
            ("0901", "picture too large"),
        ]
        assert "records of data.train left out or changed: " in err + caplog.text
    assert set(lines[0]) == {"shard", "key", "reason", "message", "sha256", "source"}
    assert lines[0]["shard"] == str(shards / "a.tar")


def test_no_bad_record_may_be_left_out_where_none_is_allowed(
    vlm: Vlm, config: Path, shards: Path, bad_records: list[Record]
) -> None:
    (shards / "dataset.json").unlink()
    good = open_shards(shards / "a.tar")
    write_shard(shards / "a.tar", [good.read(i) for i in range(60)] + bad_records)
    code, _, err = vlm("fit", "--config", str(config), "--data.max_faulty", "0")
    assert code == 2
    told = [line for line in err.splitlines() if "error" in line]
    assert len(told) == 1
    assert "a record cannot be used, and data.max_faulty is 0" in told[0]
    assert "run/quarantine.jsonl; mend or remove it" in told[0]
