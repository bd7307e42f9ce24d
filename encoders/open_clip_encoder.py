"""The vision tower of any model in open_clip's list, as a vision encoder; the text tower is never built.

In: pictures normalised as the model's evaluation does. Out: the patch tokens or the last map of the tower, before any
pooling and projection. A ViT has its final norm applied, unless that follows the pooling.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data.image import ImageSpec
from encoders.feature_map import as_layers
from encoders.library_encoder import REFUSALS, LibraryEncoder, Tower, chosen_size, first_line, is_local
from encoders.open_clip_tower import ClipResNetTower, ClipViTTower, build_visual, timm_tower
from encoders.weights import FILE_TYPES, fill_weights, read_weights


class OpenClipEncoder(LibraryEncoder):
    """The vision tower of an open_clip model. Cheap to construct: no weights exist before `materialise()`."""

    def __init__(
        self,
        name: str,
        size_px: int | None = None,
        weights: str | None = None,
        layer: int | list[int] = -1,
    ) -> None:
        """
        Mean, std and interpolation are those with which the model was trained. Pictures are squashed where its evaluation
        does so; where it cuts the middle out they are letterboxed instead, so that nothing of them is lost.

        Args:
            name: open_clip's name, `ViT-B-32`, or with a tag of its weights, `ViT-B-32.laion2b_s34b_b79k`. The tag in the
                name says how pictures are prepared, which matters where the tags of a model differ.
            size_px: side of the square picture; the model's own if not given.
            weights: nothing for random ones; `hub` for those of the name's tag, or a tag (both download); a file with
                the whole CLIP or its visual part alone; or a folder as open_clip's `push_to_hf_hub` saves it.
            layer: -1 the last, -2 the one before ...; several are concatenated along the width in the order given,
                resampled to the finest grid; a list with -1 has the final norm on every ViT layer.

        Raises:
            ValueError: open_clip has no such model or tag, or the tower gives no map for these settings.
        """
        model_name, _, tag = name.partition(".")
        config = _model_config(model_name)
        if tag:
            _tag_config(model_name, tag)
        if weights == "hub" and not tag:
            raise ValueError(
                f"weights: hub needs to know which; name them, open_clip:{name}.TAG, TAG of {_tags(model_name)}"
            )
        if weights not in (None, "hub") and not is_local(str(weights)):
            _tag_config(model_name, str(weights))
        spec = open_clip_spec(model_name, tag, chosen_size(size_px, _own_size(config)))
        layers = as_layers(layer)
        try:
            tower = _tower(config, spec.size_px, layers)
        except REFUSALS as error:
            raise ValueError(
                f"open_clip:{name} gives no feature grid for {spec.size_px} x {spec.size_px} pixels at layer {layer}: "
                f"{first_line(error)}"
            ) from error
        super().__init__(f"open_clip:{name}", tower, spec, layer, weights)
        self.name, self.tag = model_name, tag

    def _loaded(self, weights: str) -> nn.Module:
        if is_local(weights):
            state = self._visual_part(read_weights(Path(weights)), weights)
            _check_folder(Path(weights), self.name, self.spec)
        else:
            state = self._visual_part(
                read_weights(self._downloaded(self.tag if weights == "hub" else weights)), weights
            )
        config = _model_config(self.name)
        whole = {key.removeprefix("trunk.") for key in build_visual(config, "meta").state_dict()}
        model = self.tower.build("cpu")
        fill_weights(model, {key.removeprefix("trunk."): value for key, value in state.items()}, whole, weights)
        return model

    def _visual_part(self, state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
        """The tensors of the vision tower, under the tower's own names."""
        state = {key.removeprefix("module."): value for key, value in state.items()}
        visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
        return visual or state

    def _downloaded(self, tag: str) -> Path:
        from open_clip.pretrained import download_pretrained

        config = _tag_config(self.name, tag)
        if bool(config.get("quick_gelu")) != bool(_model_config(self.name).get("quick_gelu")):
            right = f"{self.name}-quickgelu" if config.get("quick_gelu") else self.name.removesuffix("-quickgelu")
            raise ValueError(
                f"the weights {tag} were not trained with the activation of {self.name}; name open_clip:{right}"
            )
        wanted = open_clip_spec(self.name, tag, self.spec.size_px)
        if any(getattr(wanted, part) != getattr(self.spec, part) for part in ("mean", "std", "interpolation")):
            raise ValueError(
                f"the weights {tag} want pictures prepared in another way than {self.label} has them; "
                f"name open_clip:{self.name}.{tag} with weights: hub"
            )
        try:
            return Path(download_pretrained(config))
        except Exception as error:
            raise ValueError(
                f"open_clip could not get the weights {tag} of {self.name}: {first_line(error)}; "
                "check the network, or give a file"
            ) from error


def _model_config(name: str) -> dict[str, Any]:
    """open_clip's config of a model, or a refusal that names near ones."""
    import open_clip

    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        raise ValueError(
            f"open_clip {open_clip.__version__} has no model {name!r}; "
            f"{'near: ' + ', '.join(near) if near else 'see open_clip.list_models()'}"
        )
    return dict(config)


def _tags(name: str) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    return ", ".join(tags) if tags else "none (open_clip offers no weights of it)"


def _tag_config(name: str, tag: str) -> dict[str, Any]:
    """open_clip's config of some weights, or a refusal that lists those there are."""
    from open_clip.pretrained import get_pretrained_cfg

    config = get_pretrained_cfg(name, tag)
    if not config:
        raise ValueError(
            f"weights of open_clip:{name} must be hub, a {', '.join(FILE_TYPES)} file, a folder or a tag, got {tag!r}; "
            f"tags: {_tags(name)}"
        )
    return dict(config)


def _own_size(config: Mapping[str, Any]) -> int:
    size = config["vision_cfg"].get("image_size", 224)
    return int(size if isinstance(size, int) else size[-1])


def open_clip_spec(name: str, tag: str, size_px: int) -> ImageSpec:
    """How pictures are prepared for some weights of a model; without a tag, for its first, or as open_clip does by default."""
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    tags = open_clip.list_pretrained_tags_by_model(name)
    first = tag or (tags[0] if tags else "")
    return _spec_of(merge_preprocess_dict(PreprocessCfg(), _tag_config(name, first) if first else {}), size_px)


def _spec_of(preprocess: Mapping[str, Any], size_px: int) -> ImageSpec:
    return ImageSpec(
        size_px=size_px,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
        fit="squash" if preprocess["resize_mode"] == "squash" else "letterbox",
    )


def _check_folder(folder: Path, name: str, spec: ImageSpec) -> None:
    """Refuse a folder whose config names another tower, or pictures prepared in another way.

    The config of a run, not a folder that may be gone, says how a saved model prepares its pictures.
    """
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    if not (folder / "open_clip_config.json").is_file():
        return
    stored = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    own, theirs = _model_config(name), stored.get("model_cfg", stored)
    if _architecture(theirs) != _architecture(own):
        raise ValueError(
            f"{folder} holds another vision tower than open_clip:{name}; name the model that it was made of"
        )
    theirs = _spec_of(merge_preprocess_dict(PreprocessCfg(), stored.get("preprocess_cfg") or {}), spec.size_px)
    if (theirs.mean, theirs.std) != (spec.mean, spec.std):
        raise ValueError(
            f"{folder} was trained with mean {theirs.mean} and std {theirs.std}, and open_clip:{name} has {spec.mean} and "
            f"{spec.std}; name a tag that has them, open_clip:{name}.TAG, or write an encoder of your own around it"
        )


def _architecture(config: Mapping[str, Any]) -> tuple[object, ...]:
    """What makes a tower, without what open_clip may have filled in when it saved the config."""
    vision = config["vision_cfg"]
    chosen = ("image_size", "layers", "width", "patch_size", "timm_model_name", "pool_type", "attentional_pool")
    return (config["embed_dim"], bool(config.get("quick_gelu")), *(str(vision.get(key)) for key in chosen))


def _tower(config: Mapping[str, Any], size_px: int, layers: tuple[int, ...]) -> Tower:
    if config["vision_cfg"].get("timm_model_name"):
        return timm_tower(config, size_px, layers)
    if isinstance(config["vision_cfg"]["layers"], list | tuple):
        return ClipResNetTower(config, layers)
    return ClipViTTower(config, layers)
