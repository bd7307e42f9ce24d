"""Any vision model of transformers, as a vision encoder. Needs the extra `[hf]`.

In: pictures normalised by the model's own image processor. Out: its patch tokens or last map, row by row, with the final
norm if it has one. Of a model of text and pictures (CLIP, SigLIP) the vision model is taken. Code that lies beside weights
on the hub is never run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.image import ImageSpec
from encoders.feature_map import as_layers
from encoders.huggingface_tower import HuggingFaceTower
from encoders.library_encoder import REFUSALS, LibraryEncoder, chosen_size, first_line, is_local
from encoders.protocol import hash_weights
from encoders.weights import FILE_TYPES, read_weights, tell_faults

BILINEAR = 2  # PIL's number
# Of preprocessor_config.json: what says how pictures are prepared.
PROCESSOR_KEYS = ("image_mean", "image_std", "size", "crop_size", "do_center_crop", "resample", "rescale_factor")


class HuggingFaceEncoder(LibraryEncoder):
    """A vision model of transformers. Cheap to construct: no weights exist before `materialise()`."""

    tower: HuggingFaceTower

    def __init__(
        self,
        name: str,
        size_px: int | None = None,
        weights: str | None = None,
        layer: int | list[int] = -1,
        config: dict[str, Any] | None = None,
        processor: dict[str, Any] | None = None,
    ) -> None:
        """
        Mean, std, size and interpolation are those of the image processor. Pictures are squashed where it does so; where
        it cuts the middle out they are letterboxed instead, so that nothing of them is lost.

        Args:
            name: a name on the hub, or a folder with `config.json` and `preprocessor_config.json`.
            size_px: side of the square picture; the image processor's own if not given.
            weights: nothing for random ones; `hub` for those under `name`, on the hub or in the folder; another folder;
                or a file.
            layer: -1 the last, with the final norm; -2 the one before, as it left the layer ... Several are concatenated
                along the width in the order given, resampled to the finest grid.
            config: what stands in `config.json`, where neither hub nor folder is to be asked: a saved model has it so.
            processor: the same of `preprocessor_config.json`.

        Raises:
            ValueError: transformers is missing, there is no such model, or it gives no map for these settings.
        """
        if weights not in (None, "hub") and not is_local(str(weights)):
            raise ValueError(f"weights must be hub, a folder or a {', '.join(FILE_TYPES)} file, got {weights!r}")
        own = _vision_config(name, config)
        chosen = processor if processor is not None else _processor(name)
        spec = _spec(name, chosen, size_px)
        try:
            tower = HuggingFaceTower(own, spec.size_px, as_layers(layer))
        except REFUSALS as error:
            raise ValueError(
                f"hf:{name} gives no feature grid for {spec.size_px} x {spec.size_px} pixels at layer {layer}: "
                f"{first_line(error)}"
            ) from error
        super().__init__(f"hf:{name}", tower, spec, layer, weights)
        self.name = name
        self.processor = {key: chosen[key] for key in PROCESSOR_KEYS if chosen.get(key) is not None}

    def portable_settings(self) -> dict[str, Any]:
        """What a saved model needs to build this encoder without hub or folder."""
        return {"config": _plain(self.tower.config), "processor": self.processor}

    def weights_key(self) -> str:
        """Changes with anything that changes a feature, and not with the folder's name."""
        return hash_weights(self.model, "hf", sorted(_plain(self.tower.config).items()), self.spec, self.layer)

    def _loaded(self, weights: str) -> nn.Module:
        kind = type(self.tower.whole("meta"))
        where: dict[str, Any] = {"pretrained_model_name_or_path": self.name if weights == "hub" else weights}
        if Path(weights).suffix in FILE_TYPES and not Path(weights).is_dir():
            where = {"pretrained_model_name_or_path": None, "state_dict": read_weights(Path(weights))}
        try:
            with _quiet():
                model, report = kind.from_pretrained(
                    **where,
                    config=self.tower.config,
                    dtype=torch.float32,
                    weights_only=True,
                    ignore_mismatched_sizes=True,  # they are told below, together with what else is wrong
                    output_loading_info=True,
                )
        except Exception as error:
            raise ValueError(
                f"transformers could not load the weights of {self.label} from {weights}: {first_line(error)}; "
                "check the network, or give a folder that its save_pretrained wrote"
            ) from error
        kept = self.model.state_dict()
        # A text tower or a classifier beside the vision model is no fault, a block more than the config has is one.
        own = {name for name, _ in model.named_children()}
        tell_faults(
            {
                "missing": sorted(key for key in report["missing_keys"] if key in kept),
                "unexpected": sorted(
                    key
                    for key in report["unexpected_keys"]
                    if key.removeprefix(f"{model.base_model_prefix}.").split(".")[0] in own
                ),
                "of another shape": [
                    f"{key} is {tuple(theirs)}, needed {tuple(needed)}"
                    for key, theirs, needed in sorted(report["mismatched_keys"])
                    if key in kept
                ],
            },
            self.label if weights == "hub" else weights,
        )
        return self.tower.cut(model)


def _spec(name: str, processor: Mapping[str, Any], size_px: int | None) -> ImageSpec:
    """How the image processor prepares pictures, without its cropping."""
    size: Any = processor.get("crop_size") if processor.get("do_center_crop") else None
    size = size or processor.get("size")
    sides = list(size.values()) if isinstance(size, Mapping) else [size]
    if size_px is None and not all(isinstance(side, int) for side in sides):
        raise ValueError(f"the image processor of hf:{name} gives no size of a square, but {size}; set size_px")
    if not processor.get("image_mean") or abs(processor.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        raise ValueError(
            f"the image processor of hf:{name} has no image_mean, or scales pixels otherwise than by 1/255; "
            "write an encoder of your own around this model"
        )
    is_squashed = isinstance(size, Mapping) and "height" in size and not processor.get("do_center_crop")
    mean, std = processor["image_mean"], processor["image_std"]
    return ImageSpec(
        size_px=chosen_size(size_px, sides[-1]),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        interpolation="bilinear" if processor.get("resample") == BILINEAR else "bicubic",
        fit="squash" if is_squashed else "letterbox",
    )


def _vision_config(name: str, stated: Mapping[str, Any] | None) -> Any:
    """The config of the vision model under a name; its own where it is one."""
    try:
        from transformers import AutoConfig
    except ModuleNotFoundError:
        raise ValueError(
            f'hf:{name} needs transformers, which is not installed; pip install "conceptvlm[hf]"'
        ) from None
    try:
        if stated is not None:
            whole = AutoConfig.for_model(**stated)
        else:
            whole = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"transformers has no config of {name!r}: {first_line(error)}; "
            "give a name on the hub, or a folder that holds config.json"
        ) from error
    return getattr(whole, "vision_config", whole)


def _processor(name: str) -> dict[str, Any]:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except Exception as error:
        raise ValueError(
            f"hf:{name} has no preprocessor_config.json, which says how pictures are prepared: {first_line(error)}; "
            "save the image processor into the folder too"
        ) from error
    return dict(found)


def _plain(config: Any) -> dict[str, Any]:
    """A config as it stands in config.json, without where it came from."""
    own = config.to_diff_dict() | {"model_type": config.model_type}
    return {key: value for key, value in own.items() if key not in ("_name_or_path", "transformers_version", "dtype")}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar and its report of what it did not load: `materialise` tells what matters."""
    from transformers.utils import logging

    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
