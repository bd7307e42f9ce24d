"""Features of a frozen tower, computed once: fills the cache before training, then tells the data module which pictures it need not decode."""

import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from data.batch import is_cached
from data.image import ImageSpec, prepare_crops
from data.module import DataModule
from data.text import Picture, PictureCrop
from encoders.feature_cache import FeatureCache, fill
from encoders.protocol import encoder_key
from vlm.model import VisionLanguageModel
from vlm.training.progress import progress

LOOKED_UP = "looked_up.txt"  # in the cache's folder: what `pictures_identity` said, and how many pictures the cache had


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
        """Fill the cache and let model and data module use it.

        The first process of each node fills; the others wait for its lock on the cache. In a collective call they would
        give up after half an hour, which many pictures take longer than.
        """
        encoder, data = model.encoder, trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it on fit
        cache = FeatureCache(self.folder, encoder_key(encoder))
        splits = ("train", "val") if stage == "fit" else ("val",)
        if trainer.local_rank == 0:
            absent = [] if looked_up(cache, data, splits) else absent_pictures(cache, data, splits)
            if absent:
                with suppress(ValueError):  # another run fills, or nothing can be written: `fill` waits, or tells
                    cache.lock()
            trainer.strategy.barrier("feature cache")
            if absent:
                self._fill(cache, encoder, absent, trainer.strategy.root_device)
            note_looked_up(cache, data, splits)
        else:
            trainer.strategy.barrier("feature cache")
            cache.wait()
        data.cached = frozenset(cache.keys())
        model.cached_features = cache.features

    def _fill(self, cache: FeatureCache, encoder: Any, absent: list[Picture], device: torch.device) -> None:
        rank_zero_info(f"Encoding {len(absent):,} pictures once into {self.folder}")
        crops = [crop for picture in absent for crop in picture.crops]
        encoder.eval().to(device)
        with progress("encoding pictures", len(crops)) as show, torch.inference_mode():
            fill(cache, encoder, crops, pixels_of(encoder.spec), progress=show)


def pixels_of(spec: ImageSpec) -> Callable[[PictureCrop], UInt8[Tensor, "3 _ _"]]:
    """Makes the pixels of one crop after another, for several threads; a picture is decoded once for neighbouring crops."""
    last = threading.local()

    def prepare(crop: PictureCrop) -> UInt8[Tensor, "3 _ _"]:
        picture = crop.picture
        if len(picture.crops) == 1:
            return prepare_crops(picture.data, spec, picture.augmentation)[0]
        if getattr(last, "key", None) != picture.feature_key:
            last.key, last.crops = None, prepare_crops(picture.data, spec, picture.augmentation)
            last.key = picture.feature_key
        return last.crops[crop.place]

    return prepare


def absent_pictures(cache: FeatureCache, data: DataModule, splits: Sequence[str]) -> list[Picture]:
    """What the loaders may ask for and the cache lacks. Reads every record: a second for 100,000."""
    return [picture for split in splits for picture in data.pictures(split) if not is_cached(picture, cache)]


def looked_up(cache: FeatureCache, data: DataModule, splits: Sequence[str]) -> bool:
    """True where an earlier run has looked up the pictures of these very shards, and the cache has lost none since.

    Should it be wrong, a picture that is not in the cache is encoded each time it comes.
    """
    notes = _read_notes(cache)
    identities = [data.pictures_identity(split) for split in splits]
    return all(identity in notes and notes[identity] <= len(cache) for identity in identities)


def _read_notes(cache: FeatureCache) -> dict[str, int]:
    """How many pictures the cache had, by what `pictures_identity` said; lines that are no notes are left out."""
    try:
        lines = (cache.folder / LOOKED_UP).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    notes = (re.fullmatch(r"(\S+) ([0-9]{1,15})", line) for line in lines)
    return {note[1]: int(note[2]) for note in notes if note is not None}


def note_looked_up(cache: FeatureCache, data: DataModule, splits: Sequence[str]) -> None:
    """Spare later runs the look-up, where the cache can be written: a full one may be there to be read only."""
    if not looked_up(cache, data, splits):
        # A new line first: what stands there may end in the middle of one.
        notes = "".join(f"\n{data.pictures_identity(split)} {len(cache)}\n" for split in splits)
        with suppress(OSError), (cache.folder / LOOKED_UP).open("a") as file:
            file.write(notes)
