import pickle
from pathlib import Path

import pytest
import torch

from vlm.training.checkpoint import AtomicCheckpointIO


def test_a_checkpoint_round_trips(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {"w": torch.arange(3)}}, tmp_path / "a" / "x.ckpt")
    assert io.load_checkpoint(tmp_path / "a" / "x.ckpt")["state_dict"]["w"].tolist() == [0, 1, 2]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.ckpt"]


class Unwritable:
    def __reduce__(self) -> str:
        raise RuntimeError("cannot be written")


def test_a_failed_save_keeps_the_earlier_checkpoint_and_leaves_no_rest(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "x.ckpt"
    io.save_checkpoint({"state_dict": {"w": torch.ones(1)}}, path)
    with pytest.raises(RuntimeError, match="cannot be written"):
        io.save_checkpoint({"state_dict": {"w": torch.zeros(1)}, "bad": Unwritable()}, path)
    assert io.load_checkpoint(path)["state_dict"]["w"].item() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.ckpt"]


def test_a_cut_off_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "x.ckpt"
    io.save_checkpoint({"state_dict": {"w": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"x\.ckpt is not a checkpoint that can be read"):
        io.load_checkpoint(path)


def test_a_missing_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at .*gone\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "gone.ckpt")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_loading_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}, "harm": Harmful()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match="not a checkpoint that can be read"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out
