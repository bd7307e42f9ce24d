"""Going on with a run: what must be as it was, and what a refusal leaves behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vlm.training.checkpoint import AtomicCheckpointIO

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]


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
