"""Model folders on disk: read, check, and replace as a whole.

A folder holds `model.safetensors` (or shards with an index), `config.yaml` and `tokenizer.json`, and needs nothing else: an
encoder's weights are among the model's. `SHA256SUMS` has what each file was when it was written; `sha256sum -c` reads it too.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from torch import Tensor, nn

from data.tokenizer import BESIDE, Tokenizer
from vlm.weight_files import (
    INDEX,
    SHARD_BYTES,
    SINGLE,
    Size,
    file_sum,
    read_sizes,
    read_weight,
    weight_files,
    write_weights,
)

if TYPE_CHECKING:
    from vlm.model import ModelConfig, VisionLanguageModel

SUMS = "SHA256SUMS"
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
    if SINGLE in missing and len(missing) == 1:
        weight_files(folder)  # shards will do; a pickle is refused by name
        missing = []
    if missing:
        raise ValueError(
            f"{folder} is no model folder: it lacks {', '.join(missing)}; a model folder holds {', '.join(MODEL_FILES)}"
        )


def require_new_folder(folder: Path) -> None:
    """Refuse to write over anything.

    Raises:
        ValueError: the folder has something in it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; name another folder, or take it away")


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


def model_files(folder: Path) -> list[Path]:
    """Every file that the model is read from.

    Raises:
        ValueError: the folder is no model folder.
    """
    require_model_folder(folder)
    others = [folder / name for name in (INDEX, "config.yaml", "tokenizer.json", *BESIDE)]
    return [*weight_files(folder), *(path for path in others if path.is_file())]


def read_sums(folder: Path) -> dict[str, str]:
    """The recorded SHA-256 of each file; nothing for a folder that was written without."""
    if not (folder / SUMS).is_file():
        return {}
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("  ", 1) for line in lines if line.strip()]
    if any(len(pair) != 2 or len(pair[0]) != 64 for pair in pairs):
        raise ValueError(f"{folder / SUMS} is not what `sha256sum` writes; save the model again")
    return {name: digest for digest, name in pairs}


def check_sums(folder: Path) -> None:
    """Refuse a folder of which a byte changed since it was written.

    Raises:
        ValueError: names the first such file.
    """
    for name, recorded in read_sums(folder).items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{folder} lacks {name}, which {SUMS} names; copy the model again as a whole")
        if (found := file_sum(path)) == recorded:
            continue
        what = {
            "tokenizer.json": "is another tokenizer than the model was saved with",
            "config.yaml": "changed since the model was saved",
        }.get(name, "changed since it was written")
        raise ValueError(
            f"{path} {what}: its SHA-256 is {found[:12]}... and {SUMS} has {recorded[:12]}...; copy the model again, "
            f"or take the line out of {SUMS} if the change is meant"
        )


def check_tokenizer(tokenizer: Tokenizer, stored: Mapping[str, Tensor | Size], folder: Path) -> None:
    """Refuse a tokenizer with more or fewer tokens than the embedding has rows.

    Raises:
        ValueError: gives both numbers.
    """
    embed = stored.get("embed.weight")
    if embed is not None and embed.shape[0] != tokenizer.vocab_size:
        raise ValueError(
            f"{folder / 'tokenizer.json'} is another tokenizer than the model's: it has {tokenizer.vocab_size} tokens and "
            f"the embedding {embed.shape[0]} rows; copy the model again as a whole"
        )


def write_model_folder(
    folder: Path,
    config: "ModelConfig",
    tokenizer: Tokenizer,
    sizes: Mapping[str, Size],
    read: Callable[[str], Iterable[Tensor]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model, tensor by tensor; the folder appears only when it is complete.

    Args:
        read: the pieces of a tensor, in the order of its rows.
    """
    with replace_folder(folder) as new:
        sums = write_weights(new, sizes, read, shard_bytes)
        settings = asdict(config) | {"tokenizer": "tokenizer.json"}
        (new / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        tokenizer.save(new)
        sums |= {path.name: file_sum(path) for path in sorted(new.iterdir()) if path.name not in sums}
        (new / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")


def check_weights(model: nn.Module, weights: Mapping[str, Tensor | Size], source: Path | str) -> None:
    """Refuse weights of another architecture, by name.

    Raises:
        ValueError: names what is missing, unexpected, or of another shape.
    """
    faults = differences(model.state_dict(), weights)
    if faults:
        raise ValueError(
            f"{source} holds another architecture than the config: it {'; '.join(faults)}; use the config it was trained with"
        )


def differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor | Size]) -> list[str]:
    """In what the weights differ from a model's own in names and shapes; nothing where they agree."""
    faults = []
    if missing := sorted(own.keys() - weights.keys()):
        faults.append(f"lacks {_some(missing)}")
    if unexpected := sorted(weights.keys() - own.keys()):
        faults.append(f"has unknown {_some(unexpected)}")
    shapes = [name for name in sorted(own.keys() & weights.keys()) if own[name].shape != weights[name].shape]
    if shapes:
        first = shapes[0]
        faults.append(
            f"has other shapes: {first} is {tuple(weights[first].shape)} there and {tuple(own[first].shape)} here ({len(shapes)} such)"
        )
    return faults


def start_from(model: "VisionLanguageModel", folder: Path) -> list[str]:
    """Give a new model the weights of a folder, cast to its own dtypes. Parts that the folder lacks stay as they are.

    Returns:
        Names of those parts.

    Raises:
        ValueError: the folder changed since it was written, or has another tokenizer or architecture.
    """
    require_model_folder(folder)
    tokenizer = Tokenizer(folder / "tokenizer.json")
    if tokenizer.fingerprint() != model.tokenizer.fingerprint(with_chat=False):
        raise ValueError(
            f"{folder} has another tokenizer than this run; set `tokenizer: {folder}`, or begin without its weights"
        )
    stored = read_sizes(weight_files(folder))
    parts = {name.split(".")[0] for name in stored}
    own = {name: value for name, value in model.state_dict().items() if name.split(".")[0] in parts}
    faults = differences(own, stored)
    if faults:
        raise ValueError(
            f"{folder} cannot start this model: it {'; '.join(faults)}; use the config that it was saved with"
        )
    check_sums(folder)
    for name, value in own.items():
        value.copy_(read_weight(name, stored[name].file))
    return sorted({name.split(".")[0] for name in model.state_dict()} - parts)


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
