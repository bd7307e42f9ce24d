"""What a vision encoder is: normalised pictures in, packed vectors (t w) with their grids (i 2) out.

There is no registry. A name is `timm:NAME`, or the import path of a class (or of a function that returns an encoder).
An encoder of one's own is an nn.Module with four things; see patch_encoder.py, the template to copy:
`spec` (how a picture is prepared), `width`, `grid(height, width)` and `encode(images)`.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.image import ImageSpec


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
    """Build an encoder from `timm:NAME` or an import path (`my_module.MyEncoder`); settings go to its constructor."""
    source, colon, model = name.partition(":")
    if colon:
        if source != "timm":
            raise ValueError(
                f"unknown encoder source {source!r} in {name!r}; use timm:NAME or an import path package.module.Class"
            )
        from encoders.timm_encoder import TimmEncoder

        make: Callable[..., Any] = TimmEncoder
        settings = {"name": model, **settings}
    else:
        make = _imported(name)
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        raise ValueError(f"encoder {name!r}: {error}; it takes {inspect.signature(make)}") from None
    encoder = make(**settings)
    _check_shape_of(encoder, name)
    return cast(VisionEncoder, encoder)


def _imported(path: str) -> Callable[..., Any]:
    module_path, _, attribute = path.rpartition(".")
    if not module_path:
        raise ValueError(f"encoder {path!r} is neither timm:NAME nor an import path; write package.module.Class")
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
        raise ValueError(f"encoder {path!r}: {module_path} ({module.__file__}) has no {attribute!r}") from None


def _check_shape_of(encoder: object, name: str) -> None:
    """Presence and types of what the protocol asks for."""
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


def check_encoder(encoder: object) -> None:
    """Run a few random pictures through an encoder, in evaluation mode.

    Raises:
        ValueError: a sentence that says what is wrong and how to mend it.
    """
    name = type(encoder).__name__
    _check_shape_of(encoder, name)
    module = cast(nn.Module, encoder)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            _check_features(cast(VisionEncoder, encoder), name)
    finally:
        module.train(was_training)


def _check_features(encoder: VisionEncoder, name: str) -> None:
    size = encoder.spec.size_px
    grid = encoder.grid(size, size)
    if not (isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(side, int) and side > 0 for side in grid)):
        raise ValueError(
            f"{name}.grid({size}, {size}) gave {grid!r}; it must give two ints of 1 or more, (rows, columns)"
        )
    parameter = next(cast(nn.Module, encoder).parameters(), torch.empty(0))
    if parameter.is_meta:
        raise ValueError(f"{name} has no weights yet; call materialise() first")
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, size, size, generator=generator).to(parameter) for _ in range(3)]
    given = [image.clone() for image in images]
    together = _features(encoder, images, name)
    if not all(torch.equal(image, before) for image, before in zip(images, given, strict=True)):
        raise ValueError(f"{name}.encode changed its input; work on a copy, other parts read the same pictures")
    vectors, num_vectors = together.vectors, 3 * grid[0] * grid[1]
    if together.grids.tolist() != [list(grid)] * 3:
        raise ValueError(
            f"{name}.encode gave grids {together.grids.tolist()} for 3 pictures of {size} x {size}, "
            f"but grid({size}, {size}) says {grid} each; data lay out slots by grid(), so the two must agree"
        )
    if tuple(vectors.shape) != (num_vectors, encoder.width):
        raise ValueError(
            f"{name}.encode gave vectors of shape {tuple(vectors.shape)}; needed ({num_vectors}, {encoder.width}), "
            f"that is 3 pictures x {grid[0]} x {grid[1]} and width {encoder.width}; "
            "are class or register tokens still in it?"
        )
    if not vectors.is_floating_point() or not bool(vectors.isfinite().all()):
        raise ValueError(
            f"{name}.encode gave vectors ({vectors.dtype}) that are not all finite numbers "
            "on random pictures; check its weights"
        )
    # 1e-4 of the largest value: batched kernels may add in another order, a leak between pictures is far larger.
    tolerance = 1e-4 * max(1.0, float(vectors.abs().max()))
    again = _features(encoder, images, name).vectors
    if not torch.allclose(again, vectors, rtol=0, atol=tolerance):
        raise ValueError(
            f"{name}.encode gave two results for the same pictures; is there randomness (dropout) left in eval()?"
        )
    for place, (alone, within) in enumerate(
        zip([_features(encoder, [image], name).vectors for image in images], together.split(), strict=True)
    ):
        if not torch.allclose(alone, within, rtol=0, atol=tolerance):
            raise ValueError(
                f"{name}.encode gave picture {place} other vectors alone than in a batch of 3 (largest difference "
                f"{float((alone - within).abs().max()):.2g}); do pictures see each other, or is their order changed?"
            )
    first, second, _ = together.split()
    if torch.equal(first, second):
        raise ValueError(f"{name}.encode gave two different pictures the same vectors; does it use its input?")
    none = encoder.encode([])
    if tuple(none.vectors.shape) != (0, encoder.width) or tuple(none.grids.shape) != (0, 2):
        raise ValueError(
            f"{name}.encode([]) gave vectors {tuple(none.vectors.shape)} and grids {tuple(none.grids.shape)}; "
            f"needed (0, {encoder.width}) and (0, 2), because a batch may hold no picture. encode_by_size does this"
        )


def _features(encoder: VisionEncoder, images: list[Tensor], name: str) -> Features:
    try:
        features: object = encoder.encode(images)
    except Exception as error:
        size = encoder.spec.size_px
        raise ValueError(f"{name}.encode failed on {len(images)} pictures of {size} x {size}: {error}") from error
    if not isinstance(features, Features):
        raise ValueError(
            f"{name}.encode gave a {type(features).__name__}; it must give encoders.Features(vectors, grids)"
        )
    return features
