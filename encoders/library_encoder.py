"""What the encoders of timm, open_clip and transformers share: they are built on the meta device and filled later.

A `Tower` knows its library: how to build the model, cut down to the layers that are asked for, and how to read its maps.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.image import ImageSpec
from encoders.feature_map import join_maps
from encoders.fold import fold_batch_norms
from encoders.protocol import Features, encode_by_size, hash_weights
from encoders.weights import FILE_TYPES

# Without gradients on a CPU, small pieces stay in the cache: tf_efficientnet_lite0 at 128 px, 2 threads, batch norms
# folded, encodes 525 pictures/s in pieces of 16 and 325/s in one of 64.
PIECE_PX = 16 * 128 * 128
# What libraries raise for a picture size that a model does not take.
REFUSALS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)
Own = TypeVar("Own", bound="LibraryEncoder")


@runtime_checkable
class Tower(Protocol):
    """A library's vision model without its head and without the layers after those that are asked for."""

    patch_px: int | None  # the grid is the picture's size over it; None where only a run can tell

    def build(self, device: str) -> nn.Module:
        """The model, with random weights; on the `meta` device without any."""
        ...

    def maps(self, model: Any, batch: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The map of each layer, in the order in which the layers were given."""
        ...


class LibraryEncoder(nn.Module):
    """An encoder around a library's model. Cheap to construct: no weights exist before `materialise()`."""

    model: Any  # the library's model, cut down by the tower

    def __init__(self, label: str, tower: Tower, spec: ImageSpec, layer: object, weights: str | None) -> None:
        """
        Args:
            label: what the encoder is called in messages and in the cache's key, as `timm:NAME`.
            layer: as in the setting, for the cache's key.
            weights: nothing for random ones; else what the library's own encoder makes of it.
        """
        super().__init__()
        self.label, self.tower, self.spec, self.layer, self.weights = label, tower, spec, layer, weights
        size = spec.size_px
        try:
            self.model = tower.build("meta")
            _, self.width, rows, columns = self.map_shape(self.model, size, size)
        except REFUSALS as error:
            raise ValueError(
                f"{label} gives no feature grid for {size} x {size} pixels at layer {layer}: {first_line(error)}"
            ) from error
        self._grids: dict[tuple[int, int], tuple[int, int]] = {(size, size): (rows, columns)}
        self._skeleton: list[nn.Module] = [self.model]  # in a list: it is no part of the module, and stays on meta

    def map_shape(self, model: Any, height: int, width: int) -> tuple[int, ...]:
        """Shape (1, width, rows, columns) of the feature map of one picture, by a run on the meta device: nothing is computed.

        Args:
            model: the library's model, its weights on the meta device.
        """
        with torch.no_grad():
            return tuple(self._feature_map(model.eval(), torch.empty(1, 3, height, width, device="meta")).shape)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of vectors for a picture of that size, without weights.

        Raises:
            ValueError: the model takes no picture of that size.
        """
        if (height, width) in self._grids:
            return self._grids[height, width]
        if (patch := self.tower.patch_px) is not None:
            if min(height, width) < patch or height % patch or width % patch:
                raise ValueError(
                    f"{self.label} takes no picture of {height} x {width} pixels: "
                    f"both sides must be multiples of {patch}, its patch"
                )
            return height // patch, width // patch
        if not self._skeleton:
            self._skeleton.append(self.tower.build("meta"))
        try:
            shape = self.map_shape(self._skeleton[0], height, width)
        except REFUSALS as error:
            raise ValueError(
                f"{self.label} takes no picture of {height} x {width} pixels: {first_line(error)}"
            ) from error
        self._grids[height, width] = (shape[2], shape[3])
        return self._grids[height, width]

    def materialise(self: Own, load_weights: bool = True) -> Own:
        """Make the real weights on the CPU, random or loaded; `requires_grad` and the mode are kept.

        Args:
            load_weights: False if a checkpoint will overwrite them anyway: then nothing is read or downloaded.
        """
        weights = self.weights if load_weights else None
        model = self.tower.build("cpu") if weights is None else self._loaded(weights)
        trainable = {key: parameter.requires_grad for key, parameter in self.model.named_parameters()}
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[key])
        self.model = model.train(self.training)
        self._skeleton.clear()
        return self

    def _loaded(self, weights: str) -> nn.Module:
        """The tower's model on the CPU with the weights that `weights` names."""
        raise ValueError(f"{self.label} cannot load weights, got weights: {weights}")

    def weights_key(self) -> str:
        """Changes with anything that changes a feature: name, picture preparation, layer, any weight."""
        return hash_weights(self.model, self.label, self.spec, self.layer)

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Features:
        """Encode pictures of any sizes that the model takes; those of equal size run as one batch.

        On the meta device nothing is computed, which tells shapes and counts FLOPs.

        Raises:
            ValueError: there are no weights yet.
        """
        if next(self.parameters()).is_meta and not (images and images[0].is_meta):
            raise ValueError(f"{self.label} has no weights yet; call materialise() first")
        return encode_by_size(self, images, self._encode_batch)

    def _feature_map(self, model: Any, batch: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b w rows columns"]:
        return join_maps(self.tower.maps(model, batch))

    def _encode_batch(self, batch: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b w rows columns"]:
        # Pieces only where they change nothing: in training, a batch norm must see the whole batch.
        if self.training or torch.is_grad_enabled() or batch.device.type != "cpu":
            return self._feature_map(self.model, batch)
        # Channels last is 1.4 times as fast without gradients; with them, torch 2.15 on the CPU corrupts memory in the
        # backward pass of timm's fastvit_t8.
        batch = batch.contiguous(memory_format=torch.channels_last)
        pieces = batch.split(max(1, PIECE_PX // (batch.shape[2] * batch.shape[3])))
        return torch.cat([self._feature_map(self.model, piece) for piece in pieces])

    def folded(self: Own) -> Own:
        """A copy for frozen use with batch norms folded into convolutions: equal up to rounding, and faster."""
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        size = self.spec.size_px
        example = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(next(fast.parameters()))
        with torch.no_grad():
            fold_batch_norms(fast.model, lambda: fast.encode([example[0]]).vectors)
        return fast


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type if it says nothing."""
    return f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__


def chosen_size(size_px: object, own_px: int) -> int:
    """The side of the square picture that a setting chooses, or the model's own.

    Raises:
        ValueError: it is no number of pixels.
    """
    if size_px is None:
        return own_px
    if not isinstance(size_px, int) or isinstance(size_px, bool) or size_px < 1:
        raise ValueError(f"size_px is the side of the square picture in pixels, an int of 1 or more, got {size_px!r}")
    return size_px


def is_local(weights: str) -> bool:
    """Whether a setting `weights` is a file by its name, or a folder that is there."""
    return Path(weights).suffix in FILE_TYPES or Path(weights).is_dir()
