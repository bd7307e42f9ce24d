"""The vision towers that open_clip writes itself, cut down to feature maps; those it takes from timm are a TimmTower.

The towers' own forward_intermediates is used throughout. A class token is always first and is dropped there; poolings
(class token, average, attentional) come after the maps and are cut off, and so is the norm where it follows the pooling.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from encoders.timm_tower import TimmTower


def build_visual(config: Mapping[str, Any], device: str) -> Any:
    """open_clip's whole vision tower with random weights, without the text tower.

    Args:
        config: a model of open_clip's list.
    """
    from open_clip.model import CLIPVisionCfg, _build_vision_tower  # only it knows which class a config means

    # Without the dropout of patches there is a vector for each place, in training too.
    vision = CLIPVisionCfg(**config["vision_cfg"] | {"timm_model_pretrained": False, "patch_dropout": 0.0})
    with torch.device(device):
        return _build_vision_tower(config["embed_dim"], vision, quick_gelu=config.get("quick_gelu", False))


def timm_tower(config: Mapping[str, Any], size_px: int, layers: tuple[int, ...]) -> TimmTower:
    """The tower of a config that names a timm model."""
    vision = config["vision_cfg"]
    fixed = {}
    pool = vision.get("timm_pool", "avg")
    # Then open_clip has timm pool, and a ViT that averages has its norm after the average.
    if vision.get("timm_proj", "linear") not in ("linear", "mlp") and pool not in ("abs_attn", "rot_attn"):
        fixed["global_pool"] = pool
    return TimmTower(vision["timm_model_name"], size_px, layers, fixed)


class ClipViTTower:
    """open_clip's VisionTransformer. Its positions are interpolated for pictures of another size than its own."""

    def __init__(self, config: Mapping[str, Any], layers: tuple[int, ...]) -> None:
        """
        Args:
            config: a model of open_clip's list.
            layers: with -1, the final norm is applied to all (unless it follows the pooling).
        """
        self.config, self.layers = config, layers
        model = build_visual(config, "meta")
        self.own_grid: tuple[int, int] = model.grid_size
        self.norm = -1 in layers and model.attn_pool is None and not model.final_ln_after_pool
        self.patch = int(model.patch_size[0])
        self.patch_px: int | None = self.patch

    def build(self, device: str) -> Any:
        """The tower without pooling and projection, and without the layers after the last that is asked for."""
        model = build_visual(self.config, device)
        self.indices = list(model.prune_intermediate_layers(list(self.layers), prune_norm=not self.norm))
        model.attn_pool = None
        return model

    def maps(self, model: Any, batch: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """open_clip gives maps by depth; here they come in the order of `layers`."""
        height, width = batch.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"both sides must be multiples of {self.patch}, its patch")
        grid = (height // self.patch, width // self.patch)
        if grid == self.own_grid:
            found = _Intermediates(model)(batch, self.indices, self.norm)
        else:
            positions = {"tower.positional_embedding": self._positions(model.positional_embedding, grid)}
            found = functional_call(_Intermediates(model), positions, (batch, self.indices, self.norm))
        by_depth = sorted(self.indices)
        return [found[by_depth.index(index)] for index in self.indices]

    def _positions(self, own: Float[Tensor, "own d"], grid: tuple[int, int]) -> Float[Tensor, "new d"]:
        """Positions for another grid, by the interpolation with which open_clip loads weights of another size."""
        rows, columns = self.own_grid
        prefix, patches = own[: -rows * columns], own[-rows * columns :]
        plane = patches.reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        plane = functional.interpolate(plane.float(), grid, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([prefix, plane[0].flatten(1).T.to(prefix.dtype)])


class _Intermediates(nn.Module):
    """A tower whose forward gives intermediate maps: only a module's forward can be run with other parameters."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower: Any = tower

    def forward(
        self, batch: Float[Tensor, "b 3 H W"], indices: list[int], norm: bool
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps of some layers, by depth."""
        return self.tower.forward_intermediates(
            batch, indices=indices, normalize_intermediates=norm, intermediates_only=True
        )["image_intermediates"]


class ClipResNetTower:
    """open_clip's ModifiedResNet: the stem and four stages, without the attention pooling."""

    patch_px: int | None = None

    def __init__(self, config: Mapping[str, Any], layers: tuple[int, ...]) -> None:
        """
        Args:
            layers: of the stem and the four stages, -1 the last stage.

        Raises:
            ValueError: there is no such layer.
        """
        self.config, self.layers = config, layers
        self.indices = [layer % 5 for layer in layers if -5 <= layer < 5]
        if len(self.indices) < len(layers):
            raise ValueError(f"it has a stem and 4 stages, layers -5 to -1, got layer {list(layers)}")

    def build(self, device: str) -> Any:
        """The tower without pooling and without the stages after the last that is asked for."""
        model = build_visual(self.config, device)
        model.attnpool = None
        for stage in range(max(self.indices) + 1, 5):
            setattr(model, f"layer{stage}", nn.Identity())
        return model

    def maps(self, model: Any, batch: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """open_clip gives maps by depth; here they come in the order of `layers`."""
        found = model.forward_intermediates(batch, indices=self.indices, intermediates_only=True)["image_intermediates"]
        by_depth = sorted(self.indices)
        return [found[by_depth.index(index)] for index in self.indices]
