"""Checkpoints that are whole or absent.

Lightning writes through the temporary folder and swallows a refused write (2.6.6). Here the file is written beside its place, synced, read for
its size, and renamed; a failure is an error that names the path, and the checkpoint that was there before stays.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint file appears under its name only when every byte of it is on disk. Loads run no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException as error:
            Path(name).unlink(missing_ok=True)
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
