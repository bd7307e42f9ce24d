"""What a vision encoder is: normalised pictures in, packed vectors (t w) with their grids (i 2) out.

There is no registry. A name is `timm:NAME`, `open_clip:NAME`, `hf:NAME`, or the import path of a class (or of a function
that returns an encoder).
An encoder of one's own is an nn.Module with four things; see patch_encoder.py, the template to copy:
`spec` (how a picture is prepared), `width`, `grid(height, width)` and `encode(images)`.
"""

import difflib
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.image import ImageSpec

# Where a name with a colon leads: module and class.
SOURCES = {
    "timm": ("encoders.timm_encoder", "TimmEncoder"),
    "open_clip": ("encoders.open_clip_encoder", "OpenClipEncoder"),
    "hf": ("encoders.huggingface_encoder", "HuggingFaceEncoder"),
}


@dataclass(frozen=True)
class Features:
    """The vectors of several images, one image after another, each row by row."""

    vectors: Float[Tensor, "t w"]
    grids: Int[Tensor, "i 2"]  # rows and columns of each image; kept on the CPU, so that counting never waits for a GPU

    def split(self) -> list[Float[Tensor, "_ w"]]:
        """The vectors of each image apart."""
        return list(self.vectors.split([rows * columns for rows, columns in self.grids.tolist()]))


@runtime_checkable
class VisionEncoder(Protocol):
    """Implementations are nn.Modules; images arrive already normalised by `spec`.

    `3 _ _`, not `3 H W`: a named axis would have to be equal in all images, and their sizes may differ.
    """

    spec: ImageSpec
    width: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of vectors for a picture of that many pixels. Needs no weights."""
        ...

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Features:
        """The features of the images, in their order."""
        ...


def encode_by_size(
    encoder: nn.Module,
    images: Sequence[Tensor],
    feature_map: Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b w rows columns"]],
) -> Features:
    """Run images of equal size as one batch and pack the results in the order of the images.

    Args:
        encoder: has `width`; its first parameter gives device and dtype where there is no image.
        images: each (3 H W); sizes may differ.
        feature_map: the encoder's own work on a batch of one size.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(tuple(image.shape), []).append(place)
    vectors: list[Tensor] = [torch.empty(0)] * len(images)
    grids = torch.zeros(len(images), 2, dtype=torch.int64)
    for same_size in places.values():
        maps = feature_map(torch.stack([images[place] for place in same_size]))
        if maps.requires_grad:
            # Of one image, the gradient comes back as (1 w rows columns) with the strides of rows of w, for which the backward
            # pass of torch 2.15's batch norm on the CPU reads other numbers: gradients of one image were wrong by 100 %.
            maps.register_hook(Tensor.contiguous)
        grids[same_size] = torch.tensor(maps.shape[2:])
        for place, vector in zip(same_size, maps.flatten(2).transpose(1, 2), strict=True):
            vectors[place] = vector
    if not vectors:
        return Features(next(encoder.parameters()).new_zeros(0, cast(int, encoder.width)), grids)
    return Features(torch.cat(vectors), grids)


def hash_weights(module: nn.Module, *settings: object) -> str:
    """sha256 over settings and every tensor of the module's state, bytes and names."""
    digest = hashlib.sha256(repr(settings).encode())
    for key, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{type(module).__name__} has no weights yet ({key} is empty); call materialise() first")
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def encoder_key(encoder: nn.Module) -> str:
    """What a feature cache is keyed by: the encoder's `weights_key()`, else its class, spec, width and weights."""
    if hasattr(encoder, "weights_key"):
        return cast(str, cast(Any, encoder).weights_key())
    kind = type(encoder)
    return hash_weights(encoder, f"{kind.__module__}.{kind.__qualname__}", encoder.spec, encoder.width)


def from_name(name: str, **settings: Any) -> VisionEncoder:
    """Build an encoder from its name; settings go to its constructor.

    Args:
        name: `timm:NAME`, `open_clip:NAME`, `hf:NAME`, or the import path of a class or of a function that returns an
            encoder (`my_module.MyEncoder`). A module in the current folder is found. Its code is run: trust it.

    Raises:
        ValueError: no such name, or settings that the encoder does not take.
    """
    source, colon, model = name.partition(":")
    if colon:
        if source not in SOURCES:
            near = difflib.get_close_matches(source, SOURCES, n=1, cutoff=0.5)
            raise ValueError(
                f"unknown encoder source {source!r} in {name!r}; use {f'{near[0]}:{model}, or ' if near else ''}"
                f"{', '.join(f'{source}:NAME' for source in SOURCES)} or an import path package.module.Class"
            )
        make: Callable[..., Any] = getattr(import_module(SOURCES[source][0]), SOURCES[source][1])
        settings = {"name": model, **settings}
    else:
        make = _imported(name)
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        raise ValueError(f"encoder {name!r}: {error}; it takes {inspect.signature(make)}") from None
    encoder = make(**settings)
    check_parts(encoder, name)
    return cast(VisionEncoder, encoder)


def portable_setting(encoder: object, setting: str | Mapping[str, Any]) -> dict[str, Any]:
    """The setting by which a saved model builds its encoder again, without any file beside it.

    `weights` is left out, since the model's file has them; what an encoder read from a file, it adds by `portable_settings()`.

    Args:
        setting: an encoder's name, or a mapping with `name` and its settings, as they stand in a config.
    """
    stated = {"name": setting} if isinstance(setting, str) else dict(setting)
    added = cast(Any, encoder).portable_settings() if hasattr(encoder, "portable_settings") else {}
    return {key: value for key, value in (stated | added).items() if key != "weights"}


def _imported(path: str) -> Callable[..., Any]:
    module_path, _, attribute = path.rpartition(".")
    if not module_path:
        sources = ", ".join(f"{source}:NAME" for source in SOURCES)
        ours = {"PatchEncoder", "FusedEncoder"}
        near = difflib.get_close_matches(path, ours, n=1)
        raise ValueError(
            f"encoder {path!r} is neither {sources} nor an import path; "
            f"write {f'encoders.{near[0]}' if near else 'package.module.Class'}"
        )
    # Last, so that a file of the user's hides no installed module; the `vlm` command does not look there by itself.
    # It stays there: worker processes import the class by its name.
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    invalidate_caches()  # the file may have been written a moment ago
    try:
        module = import_module(module_path)
    except ModuleNotFoundError as error:
        # A module that the user's own file imports and that is missing is theirs to see in full.
        if error.name is None or not (module_path + ".").startswith(error.name + "."):
            raise
        raise ValueError(
            f"encoder {path!r}: no module {error.name!r}; is its folder the current one, or on PYTHONPATH?"
        ) from None
    try:
        return cast(Callable[..., Any], getattr(module, attribute))
    except AttributeError:
        near = difflib.get_close_matches(attribute, dir(module), n=3)
        raise ValueError(
            f"encoder {path!r}: {module_path} ({module.__file__}) has no {attribute!r}"
            f"{'; near: ' + ', '.join(near) if near else ''}"
        ) from None


def check_parts(encoder: object, name: str) -> None:
    """Refuse an encoder that lacks a part of the protocol.

    Raises:
        ValueError: names the part, and the template to copy.
    """
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"encoder {name!r} gave a {type(encoder).__name__}; "
            "it must be a torch.nn.Module (or a function that returns one)"
        )
    missing = [part for part in ("spec", "width", "grid", "encode") if not hasattr(encoder, part)]
    if missing:
        raise ValueError(
            f"encoder {name!r} lacks {', '.join(missing)}; encoders/patch_encoder.py is a template to copy"
        )
    if not isinstance(encoder.spec, ImageSpec):
        raise ValueError(f"{name}.spec is a {type(encoder.spec).__name__}; it must be a data.image.ImageSpec")
    if not isinstance(encoder.width, int) or encoder.width < 1:
        raise ValueError(f"{name}.width is {encoder.width!r}; it must be the length of one vector, an int of 1 or more")
