"""Checkpoints that are whole or absent.

Lightning writes through the temporary folder and swallows a refused write (2.6.6). Here the file is written beside its place, synced and renamed;
a failure is an error that names the path, and the checkpoint that was there before stays.
"""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from vlm.training.parts import learning_rates


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint file appears under its name only when every byte of it is on disk. Loads run no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        name = target.with_name(f".{target.name}.partial")  # what a killed run left is overwritten, not added to
        try:
            with name.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException as error:
            name.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise OSError(
                    error.errno,
                    f"cannot write the checkpoint ({error.strerror}); free space or choose another folder",
                    str(target),
                ) from error
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        source = Path(path)
        if not source.is_file():
            raise ValueError(
                f"no checkpoint at {source}; name a .ckpt file of an earlier run, or leave --ckpt_path out to start anew"
            )
        try:
            checkpoint: dict[str, Any] = torch.load(source, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{source} is not a checkpoint that can be read ({reason}); it may be cut off: use an earlier one"
            ) from error
        if "state_dict" not in checkpoint:
            raise ValueError(
                f"{source} is not a training checkpoint (it has no state_dict); models are loaded with --model FOLDER instead"
            )
        return checkpoint


def last_checkpoint(root: Path) -> Path:
    """Where the run in that folder keeps its last state."""
    return root / "checkpoints" / "last.ckpt"


class Checkpoints(ModelCheckpoint):
    """The last state of the run, in `checkpoints/last.ckpt`.

    Args:
        every_steps: steps between two checkpoints, which is what a crash can cost; one more is written at the end.
    """

    def __init__(self, every_steps: int = 500) -> None:
        if every_steps < 1:
            raise ValueError(
                f"checkpoint.every_steps must be at least 1, got {every_steps}; for one checkpoint at the end give more than max_steps"
            )
        # Without the counter: a run begun anew in its folder else leaves the old last.ckpt, and writes last-v1.ckpt beside it.
        super().__init__(
            filename="{step}", every_n_train_steps=every_steps, save_last="link", enable_version_counter=False
        )

    @property
    def state_key(self) -> str:
        """The same for every interval: a run may go on with another."""
        return "Checkpoints"

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.dirpath = str(last_checkpoint(Path(trainer.default_root_dir)).parent)
        super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["learning"] = learning(pl_module)
        checkpoint["learning_rates"] = peak_rates(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.training:
            refuse_other_learning(checkpoint.get("learning"), learning(pl_module), trainer.ckpt_path)
            refuse_other_rates(checkpoint.get("learning_rates"), peak_rates(pl_module), trainer.ckpt_path)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        # Lightning's own saves here only where nothing was saved before.
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def learning(module: Any) -> list[str]:
    """Names of the weights that learn."""
    return [name for name, parameter in module.vlm.named_parameters() if parameter.requires_grad]


def refuse_other_learning(saved: list[str] | None, here: list[str], path: Any) -> None:
    """The optimizer's state is that of the weights that learned, in their order, and fits no others.

    Raises:
        ValueError: names weights that only one of the two trains.
    """
    if saved is None or saved == here:
        return
    faults = [
        f"{len(names)} weights (such as {names[0]}) {words}"
        for names, words in (
            ([name for name in saved if name not in here], "learned there and are frozen here"),
            ([name for name in here if name not in saved], "were frozen there and would learn here"),
        )
        if names
    ]
    raise ValueError(
        f"model.train_only or model.freeze differs from that of {path}: {', and '.join(faults)}; set both as they were, "
        "or start a new run with --ckpt_path left out"
    )


def peak_rates(module: Any) -> dict[str, float]:
    """Peak learning rate of each weight that learns, by name."""
    return learning_rates(module.vlm, module.optimizer_config.lr, module.optimizer_config.lr_of)


def refuse_other_rates(saved: dict[str, float] | None, here: dict[str, float], path: Any) -> None:
    """The optimizer's state brings its rates and its groups of weights with it: other rates would have no effect.

    Raises:
        ValueError: names a weight whose rate was another.
    """
    if saved is None or saved == here:
        return
    changed = [name for name in here if saved[name] != here[name]]
    raise ValueError(
        f"optimizer.lr or optimizer.lr_of differs from that of {path}: {len(changed)} weights (such as {changed[0]}) "
        f"learned with {saved[changed[0]]:g} there and would with {here[changed[0]]:g} here; set both as they were, "
        "or start a new run with --ckpt_path left out"
    )
