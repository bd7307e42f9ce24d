"""A timm model cut down to the feature maps of some of its layers.

Prefix tokens (class, registers, distillation), whatever their number, are split off by timm's own forward_intermediates.
"""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from encoders.library_encoder import REFUSALS, first_line
from encoders.recurrence import without_steps


def check_name(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        ValueError: names near ones.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        raise ValueError(
            f"timm {timm.__version__} has no model {name!r}; "
            f"{'near: ' + ', '.join(near) if near else 'see timm.list_models()'}"
        )


def freeze_unused(model: nn.Module, maps: Sequence[Float[Tensor, "1 _ _ _"]]) -> None:
    """Freeze the parameters that no map depends on, such as a norm of tokens that only the head would read.

    DDP would wait for their gradients. hrnet, crossvit and coat have such, in blocks that cannot be cut off.

    Args:
        maps: made by the model with gradients, the meta device suffices.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad([one.sum() for one in maps], parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


class TimmTower:
    """How to build a timm model and read its maps; `options` is what its constructor got."""

    def __init__(
        self, name: str, size_px: int, layers: tuple[int, ...], fixed: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            size_px: side of the square picture for which a map is needed.
            fixed: options of timm's constructor that must be as they are here.

        Raises:
            ValueError: no combination of timm's options gives a map of that size.
        """
        self.name, self.layers, self.size_px = name, layers, size_px
        self.patch_px: int | None = None
        self._built: Any = None  # the model of the test run, for the first who wants one on the meta device
        faults = []
        # ViTs take a free picture size by one option, window models by another.
        choices: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"img_size": size_px}, {})
        # Hiera and SAM 2 have no norm that fits their maps, and refuse.
        norms = (True, False) if -1 in layers else (False,)
        for self.norm, options in itertools.product(norms, choices):
            self.options = dict(fixed or {}) | options
            try:
                model = self.build("meta")
                with torch.enable_grad():
                    maps = self.maps(model.eval(), torch.empty(1, 3, size_px, size_px, device="meta"))
                    freeze_unused(model, maps)
            except REFUSALS as error:
                faults.append(first_line(error))
                continue
            self.patch_px, self._built = self._patch_px(model, size_px, maps[0]), model
            return
        raise ValueError(
            f"timm:{name} gives no feature grid for {size_px} x {size_px} pixels at layer "
            f"{layers[0] if len(layers) == 1 else list(layers)}: {faults[-1]}"
        )

    def _patch_px(self, model: Any, size_px: int, found: Float[Tensor, "1 w rows columns"]) -> int | None:
        """The patch of a plain ViT of free picture size; data ask for the grid of every picture, and a run is slow."""
        from timm.layers import PatchEmbed
        from timm.models.naflexvit import NaFlexEmbeds

        embed: Any = getattr(model, "patch_embed", None) or getattr(model, "embeds", None)
        is_free = isinstance(embed, NaFlexEmbeds) or (isinstance(embed, PatchEmbed) and not embed.strict_img_size)
        if not is_free or getattr(embed, "dynamic_img_pad", False) or self._is_of_one_size:
            return None
        patch = embed.patch_size
        rows, columns = found.shape[2:]
        if patch[0] != patch[1] or (rows, columns) != (size_px // patch[0], size_px // patch[0]):
            return None  # a hybrid, or a pyramid that begins with patches
        return int(patch[0])

    @property
    def _is_of_one_size(self) -> bool:
        import timm

        config = timm.get_pretrained_cfg(self.name)
        return "img_size" in self.options and config is not None and config.fixed_input_size

    def build(self, device: str, pretrained: bool = False) -> Any:
        """The model without its head and the layers after the last that is asked for.

        Args:
            pretrained: with timm's weights, which are downloaded.
        """
        import timm

        model: Any
        if device == "meta" and self._built is not None:
            model, self._built = self._built, None
            return model
        with torch.device(device):
            model = timm.create_model(self.name, pretrained=pretrained, num_classes=0, **self.options)
        if not hasattr(model, "forward_intermediates"):
            raise ValueError("this timm model offers no forward_intermediates; a newer timm may")
        self.indices = list(
            model.prune_intermediate_layers(list(self.layers), prune_norm=not self.norm, prune_head=True)
        )
        return model

    def maps(self, model: Any, batch: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """timm gives maps by depth; here they come in the order of `layers`.

        Raises:
            ValueError: the model was built for one size, and the pictures have another.
        """
        # Some such models read beyond their position tables, which the meta device would not notice.
        if self._is_of_one_size and tuple(batch.shape[2:]) != (self.size_px, self.size_px):
            raise ValueError(f"it was built for {self.size_px} x {self.size_px} pixels; set size_px for another size")
        with without_steps() if batch.is_meta else nullcontext():
            found = model.forward_intermediates(
                batch, indices=self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
            )
        by_depth = sorted(self.indices)
        return [found[by_depth.index(index)] for index in self.indices]
