"""Pictures of any size through the whole model: slots equal vectors, and neighbours in a batch change nothing."""

import io
import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.batch import Batch, collate
from data.sample import Part
from data.text import Row, prompt_row
from encoders.feature_cache import FeatureCache, fill
from encoders.protocol import encoder_key
from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.inference.pictures import PictureFeatures, answering
from vlm.model import ModelConfig, VisionLanguageModel, build_encoder
from vlm.training.frozen_features import pixels_of

BACKBONE = BackboneConfig(
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_width=8,
    encoder_layers=1,
    concept_layers=1,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=2, top_k=1, hidden=8),
    chunk=ChunkConfig(compression=2.0),
    max_positions=2000,
)
PATCHES = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 48, "patch_px": 4, "width": 6}
FITS: dict[str, dict[str, object]] = {
    "squash": {"fit": "squash"},
    "letterbox": {"fit": "letterbox", "background": [0, 0, 0]},
    "native": {"fit": "native", "max_pixels": 48 * 144},
    "tiles": {"fit": "tiles", "max_tiles": 4},
}
CONNECTORS = (
    *(ConnectorConfig(merge=merge) for merge in (1, 2, 3, 4)),
    ConnectorConfig(kind="linear", merge=2),
    ConnectorConfig(kind="average", merge=3),
    ConnectorConfig(kind="resampler", num_vectors=5),
)
KINDS = (CONNECTORS[1], *CONNECTORS[4:])  # one of each
TEN_SIZES = (
    (32, 32), (2000, 500), (500, 2000), (48, 48), (33, 190), (640, 480), (100, 99), (7, 300), (97, 145), (320, 64),
)  # fmt: skip


@cache
def model_of(fit: str, connector: ConnectorConfig) -> VisionLanguageModel:
    torch.manual_seed(0)
    encoder = PATCHES | FITS[fit]
    return VisionLanguageModel(
        ModelConfig(tokenizer="demo", encoder=encoder, connector=connector, backbone=BACKBONE)
    ).eval()


@cache
def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(width * 5000 + height).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    options = {"compress_level": 1} if kind == "PNG" else {}
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(file, kind, **options)
    return file.getvalue()


@cache
def small_file(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 128).save(file, "JPEG")
    return file.getvalue()


def row_of(model: VisionLanguageModel, *sizes: tuple[int, int]) -> Row:
    images = {str(place): picture(*size) for place, size in enumerate(sizes)}
    content = [part for name in images for part in (Part(image=name), Part(text="and"))]
    return prompt_row(content, images, model.tokenizer, model.layout)


def batch_of(model: VisionLanguageModel, *rows: Row) -> Batch:
    assert model.layout is not None
    batch = collate(rows, model.layout.spec)
    batch.check()
    return batch


@pytest.mark.long
@pytest.mark.parametrize("fit", FITS)
@settings(max_examples=40, deadline=None)
@given(
    connector=st.sampled_from(CONNECTORS),
    row_end=st.booleans(),
    crop_end=st.booleans(),
    width=st.integers(32, 2000),
    height=st.integers(32, 500),
    stands=st.booleans(),
)
def test_slots_are_the_vectors_for_every_size_fit_connector_and_marker(
    fit: str, connector: ConnectorConfig, row_end: bool, crop_end: bool, width: int, height: int, stands: bool
) -> None:
    model = model_of(fit, replace(connector, row_end=row_end, crop_end=crop_end))
    assert model.connector is not None
    size = (height, width) if stands else (width, height)
    images = {"p": small_file(*size)}
    row = prompt_row((Part(image="p"),), images, model.tokenizer, model.layout)
    batch = batch_of(model, row)
    with torch.no_grad():
        features = model.encode_images(batch)
        vectors = model.connector(features)
        x = model.embed_batch(batch)  # raises where slots and vectors differ
    assert len(vectors) == batch.num_image_slots == sum(batch.slots_per_image) == int(batch.is_image.sum())
    assert torch.equal(x[batch.is_image], vectors)
    if fit == "native":  # not one patch more or less than the pixels hold, and none of background
        image = batch.images[0]
        assert image is not None
        assert features.vectors.shape[0] * 4 * 4 == image.shape[1] * image.shape[2] <= 48 * 144
        merged = connector.num_vectors or features.vectors.shape[0] // connector.merge**2
        rows = connector.grid(*features.grids[0].tolist())[0]
        assert len(vectors) == merged + row_end * rows + crop_end
        assert image.max() < 255  # the background is white, the picture grey


@pytest.mark.parametrize(
    ("fit", "connector"),
    [("squash", KINDS[0]), ("letterbox", KINDS[0]), *itertools.product(("native", "tiles"), KINDS)],
    ids=lambda value: getattr(value, "kind", value),
)
def test_ten_sizes_in_one_batch_give_the_vectors_of_each_alone(fit: str, connector: ConnectorConfig) -> None:
    model = model_of(fit, replace(connector, row_end=True, crop_end=True))
    rows = [row_of(model, size) for size in TEN_SIZES]
    with torch.no_grad():
        together = batch_of(model, *rows)
        for row, x in zip(rows, model.embed_batch(together).split(together.lengths), strict=True):
            torch.testing.assert_close(x, model.embed_batch(batch_of(model, row)), atol=1e-5, rtol=0)


def test_the_hidden_vectors_of_ten_sizes_are_those_of_each_alone() -> None:
    model = model_of("native", replace(CONNECTORS[1], row_end=True))
    rows = [row_of(model, size) for size in TEN_SIZES]
    with torch.no_grad():
        together = batch_of(model, *rows)
        for row, hidden in zip(rows, model(together).hidden.split(together.lengths), strict=True):
            torch.testing.assert_close(hidden, model(batch_of(model, row)).hidden, atol=1e-5, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_efficientnet"])
def test_ten_sizes_in_one_batch_give_the_vectors_of_each_alone_from_a_timm_tower(name: str) -> None:
    torch.manual_seed(0)
    encoder = {"name": name, "size_px": 96, "fit": "native", "max_pixels": 96 * 192}
    config = ModelConfig(tokenizer="demo", encoder=encoder, connector=CONNECTORS[0], backbone=BACKBONE)
    model = VisionLanguageModel(config).eval()
    rows = [row_of(model, size) for size in TEN_SIZES]
    with torch.no_grad():
        together = batch_of(model, *rows)
        for row, x in zip(rows, model.embed_batch(together).split(together.lengths), strict=True):
            torch.testing.assert_close(x, model.embed_batch(batch_of(model, row)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fit", ["native", "tiles"])
def test_features_from_the_cache_are_the_fresh_ones(fit: str, tmp_path: Path) -> None:
    model = model_of(fit, replace(CONNECTORS[1], row_end=True))
    assert model.layout is not None
    row = row_of(model, (100, 99), (640, 480), (48, 40))
    fresh = batch_of(model, row)
    features = FeatureCache(tmp_path, encoder_key(model.encoder))
    crops = [crop for stored in row.pictures for crop in stored.crops]
    assert fill(features, model.encoder, crops, pixels_of(model.layout.spec), batch_size=3) == len(fresh.images)
    some = {crop.feature_key for crop in row.pictures[1].crops}
    with torch.no_grad():
        expected = model.embed_batch(fresh)
        for cached in (features, some):  # all pictures, and one among fresh ones
            batch = collate([row], model.layout.spec, cached)
            assert any(image is None for image in batch.images)
            model.cached_features = features.features
            # fp16 keeps 11 bits of each feature.
            torch.testing.assert_close(model.embed_batch(batch), expected, atol=5e-3, rtol=0)
    model.cached_features = None


@pytest.mark.parametrize("fit", ["native", "tiles"])
def test_a_picture_of_which_a_crop_was_forgotten_is_made_anew(fit: str) -> None:
    model = model_of(fit, CONNECTORS[1])
    assert model.layout is not None
    row = row_of(model, (100, 99), (640, 480))
    pictures = PictureFeatures(model)
    pictures.prepare([row])
    whole = pictures._bytes
    pictures._forget(row.pictures[1].crops[-1].feature_key)
    pictures.prepare([row])
    assert pictures._bytes == whole
    with answering(model, pictures), torch.no_grad():
        hidden = model(collate([row], model.layout.spec, pictures)).hidden
    torch.testing.assert_close(hidden, model(batch_of(model, row)).hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("connector", KINDS, ids=lambda connector: connector.kind)
@pytest.mark.parametrize("fit", ["native", "tiles"])
def test_text_alone_gives_every_parameter_a_gradient(fit: str, connector: ConnectorConfig, learns: bool) -> None:
    torch.manual_seed(0)
    connector = replace(connector, row_end=True, crop_end=True)
    config = ModelConfig(tokenizer="demo", encoder=PATCHES | FITS[fit], connector=connector, backbone=BACKBONE)
    model = VisionLanguageModel(config).train()
    model.encoder.requires_grad_(learns)
    row = prompt_row((Part(text="no picture here, only words"),), {}, model.tokenizer, model.layout)
    model(batch_of(model, row)).hidden.sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("fit", ["native", "tiles"])
def test_a_saved_model_lays_pictures_out_as_before(fit: str, tmp_path: Path) -> None:
    connector = ConnectorConfig(kind="resampler", num_vectors=5, crop_end=True)
    model = model_of(fit, connector)
    model.save_pretrained(tmp_path / "model")
    loaded = VisionLanguageModel.from_pretrained(tmp_path / "model")
    assert loaded.config.connector == connector
    assert loaded.encoder.spec == model.encoder.spec
    batch = batch_of(model, row_of(model, (100, 99), (640, 480)))
    with torch.no_grad():
        assert torch.equal(loaded(batch).hidden, model(batch).hidden)


def test_the_key_of_features_holds_how_pictures_are_fitted() -> None:
    keys = set()
    for fit in FITS:
        for merge in (1, 2):
            encoder = model_of(fit, ConnectorConfig(merge=merge)).encoder
            torch.nn.init.ones_(encoder.project.weight)
            torch.nn.init.ones_(encoder.project.bias)
            keys.add(encoder_key(encoder))
    model_of.cache_clear()
    assert len(keys) == 5  # only native pictures have other pixels with another merge


@pytest.mark.parametrize(
    ("fitting", "words"),
    [
        ({"fit": "native"}, "encoder: fit: native needs max_pixels"),
        ({"max_tiles": 4}, "encoder: max_tiles is a setting of fit: tiles, but fit is letterbox"),
        ({"fit": "native", "max_pixels": "4e5"}, "encoder.max_pixels must be a whole number, got '4e5'"),
        ({"background": "white"}, r"three whole numbers such as \[255, 255, 255\], got 'white'"),
        ({"background": [0, 0]}, r"got \[0, 0\]"),
    ],
)
def test_settings_of_the_fit_that_cannot_work_are_refused(fitting: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_encoder(PATCHES | fitting)


def test_an_encoder_whose_spec_is_fixed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec_of_its_own.py").write_text(
        "from encoders.patch_encoder import PatchEncoder\n\n\n"
        "def fixed(self, name, value):\n"
        "    if name == 'spec' and hasattr(self, 'project'):\n"
        "        raise AttributeError(name)\n"
        "    super(SpecOfItsOwn, self).__setattr__(name, value)\n\n\n"
        "class SpecOfItsOwn(PatchEncoder):\n"
        "    __setattr__ = fixed\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"SpecOfItsOwn.spec cannot be set, so `fit` cannot be chosen"):
        build_encoder({"name": "spec_of_its_own.SpecOfItsOwn", "fit": "squash"})
