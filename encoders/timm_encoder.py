"""Any timm model that gives a feature grid, as a vision encoder.

In: pictures normalised by the model's own mean and std. Out: the last map of a convolutional or pyramid model,
or the patch tokens of a ViT (prefix tokens dropped, final norm applied), row by row. Head and later layers are cut off.
`naflexvit` models and other ViTs take every size whose sides are multiples of the patch; positions are interpolated.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.image import ImageSpec
from encoders.feature_map import as_layers
from encoders.library_encoder import LibraryEncoder, chosen_size, first_line, is_local
from encoders.timm_tower import TimmTower, check_name
from encoders.weights import FILE_TYPES, PACKAGES, fill_weights, match_by_position, package_file, read_weights


class TimmEncoder(LibraryEncoder):
    """A timm model cut down to its feature map. Cheap to construct: no weights exist before `materialise()`."""

    tower: TimmTower

    def __init__(
        self,
        name: str,
        size_px: int | None = None,
        weights: str | None = None,
        layer: int | list[int] = -1,
    ) -> None:
        """
        Mean, std, size and interpolation are the model's own. Pictures are squashed where the model's evaluation does
        so; where it cuts the middle out they are letterboxed instead, because what is cut off may be what is asked about.

        Args:
            name: timm's name, `vit_base_patch16_siglip_224` or with a tag, `NAME.webli`.
            size_px: side of the square picture; the model's own if not given.
            weights: nothing for random ones; `hub` for timm's pretrained ones (downloads); `package` for those that a
                package of the extra `[weights]` carries; a .safetensors, .pt, .pth or .bin file; or a folder as timm's
                `save_for_hf` writes it.
            layer: which of timm's feature maps: -1 the last (with the final norm, if any), -2 the one before ...
                Several are concatenated along the width in the order given, resampled to the finest grid; a list with
                -1 has the final norm on every ViT layer, one without it on none.

        Raises:
            ValueError: timm has no such model, or the model gives no map for these settings.
        """
        if weights == "package" and name not in PACKAGES:
            raise ValueError(
                f"no package is known to carry weights of {name!r}; "
                f"it may be {', '.join(PACKAGES)}. Or use weights: hub"
            )
        if weights not in (None, "hub", "package") and not is_local(str(weights)):
            raise ValueError(
                f"weights must be hub, package or a {', '.join(FILE_TYPES)} file or a folder, got {weights!r}"
            )
        check_name(name)
        spec = timm_spec(name, size_px)
        tower = TimmTower(name, spec.size_px, as_layers(layer))
        super().__init__(f"timm:{name}", tower, spec, layer, weights)
        self.name = name

    def _loaded(self, weights: str) -> nn.Module:
        if weights == "hub":
            try:
                return self.tower.build("cpu", pretrained=True)
            except Exception as error:
                raise ValueError(
                    f"timm could not get the weights of {self.name}: {first_line(error)}; "
                    "check the network, or give weights: package or a file"
                ) from error
        import timm

        with torch.device("meta"):
            whole = timm.create_model(self.name, **self.tower.options).state_dict()
        if weights == "package":
            state = match_by_position(read_weights(package_file(self.name)), whole)
        else:
            self._check_folder(Path(weights))
            state = read_weights(Path(weights))
        model = self.tower.build("cpu")
        origin = weights if weights != "package" else f"the package of {self.name}"
        fill_weights(model, state, optional=set(whole), origin=origin)
        return model

    def _check_folder(self, folder: Path) -> None:
        """Refuse a folder whose config names another model, or pictures prepared in another way.

        The config of a run, not a folder that may be gone, says how a saved model prepares its pictures.
        """
        if not (folder / "config.json").is_file():
            return
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = self.name.split(".")[0]
        if (theirs := config.get("architecture")) != own:
            raise ValueError(f"{folder} holds a {theirs}, not a {own}; name the encoder timm:{theirs}")
        for key in ("mean", "std"):
            theirs = (config.get("pretrained_cfg") or {}).get(key)
            if theirs is not None and tuple(theirs) != getattr(self.spec, key):
                raise ValueError(
                    f"{folder} was trained with {key} {tuple(theirs)} and {self.name} has {getattr(self.spec, key)}; "
                    "name the tag that it was made from (NAME.TAG), or write an encoder of your own around it"
                )


def timm_spec(name: str, size_px: int | None) -> ImageSpec:
    """How timm's evaluation prepares pictures for a model, without its cropping."""
    import timm

    config = timm.get_pretrained_cfg(name)
    assert config is not None
    settings: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=config.to_dict(), verbose=False)
    return ImageSpec(
        size_px=chosen_size(size_px, settings["input_size"][-1]),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        fit="squash" if settings["crop_mode"] == "squash" else "letterbox",
    )
