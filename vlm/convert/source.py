"""A Hugging Face folder: found on disk or fetched, and read no further than its config and its tensors' sizes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.weight_files import Stored, read_sizes, weight_files

# Weights, configs, tokenizers and templates; neither code nor pickles are fetched.
FETCHED = ["*.json", "*.safetensors", "*.jinja"]
NOT_FETCHED = ["*/*", "consolidated*"]  # the same weights once more, for other programs


@dataclass(frozen=True)
class Source:
    """A pretrained model as it lies on disk."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Stored]


def read_source(name: str) -> Source:
    """The model of a folder, or of that name on the hub.

    Raises:
        ValueError: there is no such folder and the hub does not give it, or it is not whole.
    """
    folder = local_folder(name)
    config = read_json(folder / "config.json")
    return Source(folder, config, read_sizes(weight_files(folder)))


def local_folder(name: str) -> Path:
    """The folder of that name, or of the model of that name on the hub."""
    return Path(name) if Path(name).is_dir() else fetch(name)


def fetch(name: str) -> Path:
    """The folder of a model of the hub, fetched unless it is there already.

    Raises:
        ValueError: it cannot be had; says why.
    """
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists():
        raise ValueError(
            f"no folder {name}; give the folder of a Hugging Face model, or a name such as Qwen/Qwen3-0.6B"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f'no folder {name}, and to fetch a model of that name needs huggingface_hub; pip install "conceptvlm[hf]"'
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=FETCHED, ignore_patterns=NOT_FETCHED))
    except Exception as error:  # the hub's errors have no class in common
        raise ValueError(
            f"no folder {name}, and the hub does not give a model of that name ({str(error).splitlines()[0]}); fetch it "
            "where there is a network, and name its folder"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is no folder of a Hugging Face model: it lacks {path.name}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__} instead of settings; fetch it again")
    return found
