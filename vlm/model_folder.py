"""Model folders on disk: read, check, and replace as a whole.

A folder holds `model.safetensors`, `config.yaml` and `tokenizer.json`, and needs nothing else: an encoder's weights are among the model's.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from torch import Tensor, nn

if TYPE_CHECKING:
    from vlm.model import ModelConfig

MODEL_FILES = ("model.safetensors", "config.yaml", "tokenizer.json")
PARTS = {"backbone", "connector", "encoder"}  # of config.yaml; the tokenizer is the folder's own


def require_model_folder(folder: Path) -> None:
    """Refuse, in one line, a folder that is no model folder.

    Raises:
        ValueError: the folder or one of its files is missing.
    """
    if not folder.is_dir():
        raise ValueError(
            f"no model folder at {folder}; train one with `vlm fit`, or name the folder that holds model.safetensors"
        )
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no model folder: it lacks {', '.join(missing)}; a model folder holds {', '.join(MODEL_FILES)}"
        )


def read_model_config(folder: Path) -> "ModelConfig":
    """The config of a saved model. The encoder's own `weights` are dropped: they are in the model's file.

    Raises:
        ValueError: the folder is no model folder, or its config is not one of this version.
    """
    from vlm.model import model_config

    require_model_folder(folder)
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not settings.keys() >= PARTS:
            raise ValueError(f"it must hold {', '.join(sorted(PARTS))}")
        encoder = settings["encoder"]
        if isinstance(encoder, dict):
            encoder = {key: value for key, value in encoder.items() if key != "weights"}
        return model_config(settings | {"encoder": encoder, "tokenizer": str(folder / "tokenizer.json")})
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{folder / 'config.yaml'} is not the config of a model of this version: {error}; save the model again"
        ) from error


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse weights of another architecture, by name.

    Raises:
        ValueError: names what is missing, unexpected, or of another shape.
    """
    own = model.state_dict()
    faults = []
    if missing := sorted(own.keys() - weights.keys()):
        faults.append(f"lacks {_some(missing)}")
    if unexpected := sorted(weights.keys() - own.keys()):
        faults.append(f"has unknown {_some(unexpected)}")
    shapes = [name for name in sorted(own.keys() & weights.keys()) if own[name].shape != weights[name].shape]
    if shapes:
        first = shapes[0]
        faults.append(
            f"{first} is {tuple(weights[first].shape)} there and {tuple(own[first].shape)} here ({len(shapes)} such)"
        )
    if faults:
        raise ValueError(
            f"{source} holds another architecture than the config: it {'; '.join(faults)}; use the config it was trained with"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when the block ends well and vanishes when it does not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield new
        new.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(new, folder)
            shutil.rmtree(old)
        else:
            os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
