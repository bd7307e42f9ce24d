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

from data.batch import is_cached
from data.image import prepare_crops
from data.sample import BadRecord
from data.text import Picture, PictureCrop, Row
from encoders.feature_cache import FeatureCache, fill
from encoders.protocol import Features
from vlm.model import VisionLanguageModel

ENCODE_BATCH = (
    32  # crops per call of the encoder, or those of one picture: enough to keep it busy, few enough to bound its memory
)
Grid = tuple[int, int]  # rows and columns of a crop's features


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
        self._kept: OrderedDict[str, tuple[Tensor, Grid]] = OrderedDict()  # by feature key, for each crop
        self._frozen: Any = None

    def __contains__(self, feature_key: object) -> bool:
        return feature_key in self._kept

    def read(self, feature_keys: Sequence[str]) -> Features:
        """Features of crops of pictures that the last `prepare` was given."""
        found = [self._kept[key] for key in feature_keys]
        return Features(torch.cat([vectors for vectors, _ in found]), torch.tensor([grid for _, grid in found]))

    @torch.inference_mode()
    def prepare(self, rows: Iterable[Row]) -> None:
        """Know the features of every picture of these rows.

        Raises:
            BadRecord: a picture cannot be read; names the sample it belongs to.
        """
        wanted = {picture.feature_key: (picture, row.sample_id) for row in rows for picture in row.pictures}
        unknown = [named for named in wanted.values() if not is_cached(named[0], self._kept)]
        for some in _in_batches(unknown):
            for crop, vectors, grid in self._features(some):
                self._forget(crop.feature_key)
                self._kept[crop.feature_key] = vectors, grid
                self._bytes += vectors.nbytes
        needed = [crop.feature_key for picture, _ in wanted.values() for crop in picture.crops]
        for key in needed:
            self._kept.move_to_end(key)
        while self._bytes > self._max_bytes and len(self._kept) > len(needed):
            self._forget(next(iter(self._kept)))

    def _forget(self, feature_key: str) -> None:
        if feature_key in self._kept:
            self._bytes -= self._kept.pop(feature_key)[0].nbytes

    def _features(
        self, pictures: Sequence[tuple[Picture, str]]
    ) -> list[tuple[PictureCrop, Float[Tensor, "_ w"], Grid]]:
        encoder = self._model.encoder
        if encoder is None:
            raise ValueError(f"{pictures[0][1]} has a picture but this model has no encoder; ask without the picture")
        weight = next(encoder.parameters(), self._model.embed.weight)
        crops = [crop for picture, _ in pictures for crop in picture.crops]
        if self._cache is None:
            if self._frozen is None:
                # The same weights, with norms folded into convolutions where the encoder can do that: twice as fast.
                self._frozen = encoder.folded() if hasattr(encoder, "folded") else encoder
            pixels = [
                encoder.spec.normalise(image.to(weight.device)) for named in pictures for image in self._pixels(*named)
            ]
            encoded = self._frozen.encode([image.to(weight.dtype) for image in pixels])
            # Clones: a view would keep the features of the whole call alive after its neighbours are forgotten.
            vectors = [part.clone() for part in encoded.split()]
        else:
            decoded: dict[str, UInt8[Tensor, "3 _ _"]] = {}
            for picture, name in pictures:
                if not is_cached(picture, self._cache):
                    keys = [crop.feature_key for crop in picture.crops]
                    decoded |= zip(keys, self._pixels(picture, name), strict=True)
            fill(self._cache, encoder, [c for c in crops if c.feature_key in decoded], lambda c: decoded[c.feature_key])
            encoded = self._cache.features([crop.feature_key for crop in crops])
            vectors = [part.to(weight.device, weight.dtype) for part in encoded.split()]
        grids = [(rows, columns) for rows, columns in encoded.grids.tolist()]
        return list(zip(crops, vectors, grids, strict=True))

    def _pixels(self, picture: Picture, sample_id: str) -> list[UInt8[Tensor, "3 _ _"]]:
        try:
            return prepare_crops(picture.data, self._model.encoder.spec, picture.augmentation)
        except BadRecord as error:
            raise BadRecord(f"{sample_id}: {error}") from error


def _in_batches(named: Sequence[tuple[Picture, str]]) -> Iterator[list[tuple[Picture, str]]]:
    """Whole pictures, of `ENCODE_BATCH` crops together where they have no more."""
    batch: list[tuple[Picture, str]] = []
    crops = 0
    for picture, name in named:
        if batch and crops + len(picture.crops) > ENCODE_BATCH:
            yield batch
            batch, crops = [], 0
        batch.append((picture, name))
        crops += len(picture.crops)
    if batch:
        yield batch


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
