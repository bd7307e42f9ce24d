"""Features of a frozen tower, computed once: fills the cache before training, then tells the data module which pictures it need not decode."""

import os
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from data.image import prepare_image
from encoders.feature_cache import FeatureCache, fill
from encoders.protocol import encoder_key
from vlm.model import VisionLanguageModel
from vlm.training.progress import progress


def cache_root() -> Path:
    """Where computed things of the user are kept: $CONCEPTVLM_CACHE, or ~/.cache/conceptvlm."""
    return Path(os.environ.get("CONCEPTVLM_CACHE") or Path.home() / ".cache" / "conceptvlm")


class FrozenFeatures:
    """The feature cache of one training run.

    Args:
        folder: where the features are kept; `auto` is a folder of the user's cache.
    """

    def __init__(self, folder: str) -> None:
        self.folder = cache_root() / "features" if folder == "auto" else Path(folder)

    def attach(self, model: VisionLanguageModel, trainer: Trainer, stage: str) -> None:
        """Fill the cache (rank 0; the others wait) and let model and data module use it."""
        encoder, data = model.encoder, trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it on fit
        key = encoder_key(encoder)
        splits = ("train", "val") if stage == "fit" else ("val",)
        if trainer.is_global_zero:
            cache = FeatureCache(self.folder, key)
            pictures = [p for split in splits for p in data.pictures(split) if p.feature_key not in cache]
            if pictures:
                rank_zero_info(f"Encoding {len(pictures):,} pictures once into {self.folder}")
                device = trainer.strategy.root_device
                encoder.eval().to(device)
                with progress("encoding pictures", len(pictures)) as show, torch.inference_mode():
                    fill(
                        cache,
                        encoder,
                        pictures,
                        lambda picture: prepare_image(picture.data, encoder.spec, picture.augmentation),
                        progress=show,
                    )
                cache.flush()
        trainer.strategy.barrier("feature cache")
        cache = FeatureCache(self.folder, key)
        data.cached = frozenset(cache.keys())
        model.cached_features = cache.read
