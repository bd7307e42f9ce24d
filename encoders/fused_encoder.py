"""Several encoders side by side on the same picture, as DINOv2 beside SigLIP: one sees where things are, one what they are.

In: pictures normalised by the fused spec, which is the first encoder's. Each encoder gets them at its own size, by its own
mean and std. Out: the encoders' vectors on the finest grid of all, concatenated along the width in the order given.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from encoders.feature_map import join_maps, joined_grid
from encoders.library_encoder import LibraryEncoder, chosen_size
from encoders.protocol import Features, encode_by_size, encoder_key, from_name, hash_weights, portable_setting


class FusedEncoder(nn.Module):
    """Encoders whose vectors are resampled to one grid and concatenated. Cheap to construct if these are."""

    def __init__(self, encoders: list[str | dict[str, Any]], size_px: int | None = None) -> None:
        """
        Args:
            encoders: two or more; each a name, or a mapping with `name` and the encoder's settings (also its `weights`).
            size_px: side of the square picture that all encoders' own are made from; the first encoder's if not given.

        Raises:
            ValueError: fewer than two encoders, or one that cannot be had.
        """
        super().__init__()
        if not isinstance(encoders, list) or len(encoders) < 2:
            raise ValueError(
                f"encoders must be a list of two or more encoders, got {encoders!r}; for one, name it itself"
            )
        self.settings = [{"name": setting} if isinstance(setting, str) else dict(setting) for setting in encoders]
        unnamed = [setting for setting in self.settings if "name" not in setting]
        if unnamed:
            raise ValueError(f"one of the encoders is a mapping without `name`: {unnamed[0]}")
        self.parts = nn.ModuleList()
        for setting in self.settings:
            self.parts.append(cast(nn.Module, from_name(**setting)))
        first = self._part(0).spec
        self.spec = replace(first, size_px=chosen_size(size_px, first.size_px))
        self.width = sum(self._part(index).width for index in range(len(self.parts)))

    def _part(self, index: int) -> Any:
        return self.parts[index]

    def part_size(self, index: int, height: int, width: int) -> tuple[int, int]:
        """Pixels at which one of the encoders sees a picture of the fused encoder's.

        The square of `size_px` becomes the encoder's own square; others keep their aspect but for rounding to its patch.
        """
        part = self._part(index)
        own, fused = part.spec.size_px, self.spec.size_px
        if height == width == fused:
            return own, own
        patch = _patch_px(part)
        rows, columns = (max(1, round(side * own / fused / patch)) for side in (height, width))
        return rows * patch, columns * patch

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The most rows and the most columns that any of the encoders gives."""
        return joined_grid(
            [self._part(index).grid(*self.part_size(index, height, width)) for index in range(len(self.parts))]
        )

    def materialise(self, load_weights: bool = True) -> "FusedEncoder":
        """Make the real weights of all encoders.

        Args:
            load_weights: False if a checkpoint will overwrite them anyway.
        """
        for index in range(len(self.parts)):
            part = self._part(index)
            if isinstance(part, LibraryEncoder | FusedEncoder):
                part.materialise(load_weights)
            elif hasattr(part, "materialise"):
                part.materialise()
        return self

    def weights_key(self) -> str:
        """Changes with anything that changes a feature of any of the encoders."""
        return hash_weights(nn.Module(), "fused", self.spec, [encoder_key(part) for part in self.parts])

    def portable_settings(self) -> dict[str, Any]:
        """What a saved model needs to build the encoders without files: their settings without weights."""
        return {
            "encoders": [
                portable_setting(part, setting) for part, setting in zip(self.parts, self.settings, strict=True)
            ]
        }

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Features:
        """Encode pictures of any sizes that all encoders take; those of equal size run as one batch.

        Raises:
            ValueError: there are no weights yet.
        """
        if next(self.parameters()).is_meta and not (images and images[0].is_meta):
            raise ValueError("the fused encoder has no weights yet; call materialise() first")
        return encode_by_size(self, images, self._encode_batch)

    def _encode_batch(self, batch: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b w rows columns"]:
        maps = []
        for index in range(len(self.parts)):
            features = self._part(index).encode(list(self._seen_by(index, batch)))
            rows, columns = features.grids[0].tolist()
            maps.append(features.vectors.unflatten(0, (len(batch), rows, columns)).permute(0, 3, 1, 2))
        return join_maps(maps)

    def _seen_by(self, index: int, batch: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h v"]:
        """The pictures as one of the encoders wants them."""
        spec = self._part(index).spec
        size = self.part_size(index, batch.shape[2], batch.shape[3])
        if size == tuple(batch.shape[2:]) and (spec.mean, spec.std) == (self.spec.mean, self.spec.std):
            return batch
        pixels = batch.float() * _planes(self.spec.std, batch) + _planes(self.spec.mean, batch)
        if size != tuple(batch.shape[2:]):
            pixels = functional.interpolate(pixels, size, mode=spec.interpolation, antialias=True).clamp(0, 1)
        return ((pixels - _planes(spec.mean, batch)) / _planes(spec.std, batch)).to(batch.dtype)

    def folded(self) -> "FusedEncoder":
        """A copy for frozen use with each encoder folded that can be."""
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        for index in range(len(fast.parts)):
            part = fast._part(index)
            if hasattr(part, "folded"):
                fast.parts[index] = part.folded()
        return fast


def _planes(values: tuple[float, float, float], like: Tensor) -> Float[Tensor, "3 1 1"]:
    # Filled there, not copied from here: a copy would wait for the device.
    return torch.stack([torch.full((1, 1), value, device=like.device) for value in values])


def _patch_px(encoder: Any) -> int:
    """The patch of an encoder that says it has one; pixels one by one where none is known."""
    patch = encoder.tower.patch_px if isinstance(encoder, LibraryEncoder) else getattr(encoder, "patch_px", None)
    return patch or 1
