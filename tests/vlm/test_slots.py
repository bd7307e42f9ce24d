"""Image slots hold the encoder's vectors, whatever mix of records stands in a row: text alone, one picture, many pictures."""

import io
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.batch import collate
from data.image import prepare_crops
from data.sample import Part, Sample
from data.text import Row, sample_row
from tests.vlm.backbone.kinds import SUM
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig, VisionLanguageModel

PATCHES: dict[str, object] = {
    "name": "encoders.patch_encoder.PatchEncoder",
    "size_px": 32,
    "patch_px": 4,
    "width": 6,
}
ENCODERS: dict[str, tuple[dict[str, object], ConnectorConfig]] = {
    "fixed": (PATCHES, ConnectorConfig(merge=2)),
    "fixed, with markers": (PATCHES | {"fit": "squash"}, ConnectorConfig(merge=4, row_end=True, crop_end=True)),
    "native": (PATCHES | {"fit": "native", "max_pixels": 32 * 96}, ConnectorConfig(merge=2, row_end=True)),
    "tiles": (PATCHES | {"fit": "tiles", "max_tiles": 4}, ConnectorConfig(merge=4, crop_end=True)),
    "tiles, resampled": (
        PATCHES | {"fit": "tiles", "max_tiles": 6},
        ConnectorConfig(kind="resampler", num_vectors=3),
    ),
}
# A record: None stands for words, a pair for a picture of that width and height.
pieces = st.lists(
    st.one_of(st.none(), st.tuples(st.integers(4, 120), st.integers(4, 120))), min_size=1, max_size=6
).filter(lambda found: len(found) > 0)
mixes = st.lists(pieces, min_size=1, max_size=7)


@cache
def model_of(kind: str) -> VisionLanguageModel:
    torch.manual_seed(0)
    encoder, connector = ENCODERS[kind]
    return VisionLanguageModel(
        ModelConfig(tokenizer="demo", encoder=encoder, connector=connector, backbone=SUM)
    ).double()


@cache
def picture(number: int, width: int, height: int) -> bytes:
    """Another one for each number."""
    pixels = np.random.default_rng([number, width, height]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(file, "PNG", compress_level=1)
    return file.getvalue()


def row_of(model: VisionLanguageModel, number: int, found: list[tuple[int, int] | None]) -> Row:
    images = {f"{i}.png": picture(10 * number + i, *size) for i, size in enumerate(found) if size is not None}
    parts = tuple(Part(text="words") if size is None else Part(image=f"{i}.png") for i, size in enumerate(found))
    return sample_row(Sample(f"{number}", f"record-{number}", parts, None, images), model.tokenizer, model.layout)


@pytest.mark.long
@pytest.mark.parametrize("kind", ENCODERS)
@settings(max_examples=25, deadline=None)
@given(mix=mixes, trains=st.booleans())
def test_slots_are_the_vectors_of_their_own_pictures_for_every_mix(
    kind: str, mix: list[list[tuple[int, int] | None]], trains: bool
) -> None:
    model = model_of(kind).train(trains)
    assert model.layout is not None
    assert model.connector is not None
    rows = [row_of(model, number, found) for number, found in enumerate(mix)]
    batch = collate(rows, model.layout.spec)
    batch.check()
    seen: list[torch.Tensor] = []
    encode = model.encoder.encode
    # `normalise` gives float32; in float64 no rounding hides a picture in the place of another.
    vars(model.encoder)["encode"] = lambda images: encode([image.double() for image in images])
    hook = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        with torch.no_grad():
            model(batch)
    finally:
        hook.remove()
        del vars(model.encoder)["encode"]
    vectors = []
    for row in rows:
        for stored in row.pictures:
            for crop in prepare_crops(stored.data, model.layout.spec):
                with torch.no_grad():
                    vectors.append(model.connector(encode([model.layout.spec.normalise(crop).double()])))
    expected = torch.cat(vectors) if vectors else seen[0][:0]
    assert len(expected) == batch.num_image_slots == int(batch.is_image.sum())
    torch.testing.assert_close(seen[0][batch.is_image], expected, atol=1e-12, rtol=0)
    words = ~batch.is_image
    torch.testing.assert_close(seen[0][words], model.embed(batch.ids[words]).detach(), atol=0, rtol=0)
