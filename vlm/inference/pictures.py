"""Encoder features of pictures, each computed once and kept for the prompts that share it.

In: rows that name pictures. Out: what `VisionLanguageModel.cached_features` wants, so that a picture is decoded and
encoded once however many questions, candidates or passes use it. Valid only while the encoder's weights stay as they
are: make a new one after training steps.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.image import prepare_image
from data.sample import BadRecord
from data.text import Picture, Row
from encoders.feature_cache import FeatureCache, fill
from vlm.model import VisionLanguageModel

ENCODE_BATCH = 32  # pictures per call of the encoder: enough to keep it busy, few enough to bound its memory


class PictureFeatures:
    """A memory of encoder features; the longest unused are forgotten first.

    Args:
        model: its encoder computes what is not known yet.
        cache: features on disk, read before anything is computed; it learns what was computed.
        max_bytes: features kept in memory.
    """

    def __init__(self, model: VisionLanguageModel, cache: FeatureCache | None = None, max_bytes: int = 2**28) -> None:
        self._model = model
        self._cache = cache
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._frozen: Any = None

    def __contains__(self, feature_key: object) -> bool:
        return feature_key in self._kept

    def read(self, feature_keys: Sequence[str]) -> list[Float[Tensor, "p w"]]:
        """Features of pictures that the last `prepare` was given."""
        return [self._kept[key] for key in feature_keys]

    @torch.inference_mode()
    def prepare(self, rows: Iterable[Row]) -> None:
        """Know the features of every picture of these rows.

        Raises:
            BadRecord: a picture cannot be read; names the sample it belongs to.
        """
        wanted = {picture.feature_key: (picture, row.sample_id) for row in rows for picture in row.pictures}
        unknown = [named for key, named in wanted.items() if key not in self._kept]
        for start in range(0, len(unknown), ENCODE_BATCH):
            some = unknown[start : start + ENCODE_BATCH]
            for (picture, _), vectors in zip(some, self._features(some), strict=True):
                self._kept[picture.feature_key] = vectors
                self._bytes += vectors.nbytes
        for key in wanted:
            self._kept.move_to_end(key)
        while self._bytes > self._max_bytes and next(iter(self._kept)) not in wanted:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _features(self, pictures: Sequence[tuple[Picture, str]]) -> list[Float[Tensor, "p w"]]:
        encoder = self._model.encoder
        if encoder is None:
            raise ValueError(f"{pictures[0][1]} has a picture but this model has no encoder; ask without the picture")
        weight = next(encoder.parameters(), self._model.embed.weight)
        if self._cache is None:
            if self._frozen is None:
                # The same weights, with norms folded into convolutions where the encoder can do that: twice as fast.
                self._frozen = encoder.folded() if hasattr(encoder, "folded") else encoder
            pixels = [encoder.spec.normalise(self._pixels(*named).to(weight.device)) for named in pictures]
            encoded = self._frozen.encode([image.to(weight.dtype) for image in pixels])
            # Clones: a view would keep the features of the whole call alive after its neighbours are forgotten.
            return [part.clone() for part in encoded.split()]
        absent = [named for named in pictures if named[0].feature_key not in self._cache]
        decoded = {picture.feature_key: self._pixels(picture, name) for picture, name in absent}
        fill(self._cache, encoder, [picture for picture, _ in absent], lambda picture: decoded[picture.feature_key])
        found = self._cache.read([picture.feature_key for picture, _ in pictures])
        return [vectors.to(weight.device, weight.dtype) for vectors in found]

    def _pixels(self, picture: Picture, sample_id: str) -> UInt8[Tensor, "3 H W"]:
        try:
            return prepare_image(picture.data, self._model.encoder.spec, picture.augmentation)
        except BadRecord as error:
            raise BadRecord(f"{sample_id}: {error}") from error


@contextmanager
def answering(model: VisionLanguageModel, pictures: PictureFeatures) -> Iterator[None]:
    """Evaluation mode, no gradients, and pictures out of memory; everything is put back at the end."""
    cached_features = model.cached_features
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    model.cached_features = pictures.read
    try:
        with torch.inference_mode():
            yield
    finally:
        # Each by itself: a frozen part of a model in training is in evaluation mode, and stays there.
        for module in trained:
            module.training = True
        model.cached_features = cached_features
