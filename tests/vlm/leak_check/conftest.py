"""A small model of every kind, and records of text, of one picture and of several."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.shards import ShardSet, open_shards, write_shard
from tests.vlm.backbone.kinds import KINDS
from vlm.connector import ConnectorConfig
from vlm.leak_check.check import open_closed_paths
from vlm.leak_check.records import Record, find_records
from vlm.model import ModelConfig, VisionLanguageModel

PATCHES = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 8, "width": 6}
ModelOf = Callable[..., VisionLanguageModel]


def png(seed: int, width: int, height: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Half of the records are text alone, half have one picture, each of another size."""
    records = []
    for number in range(12):
        words = [{"type": "text", "text": f"thing {number} is " + "very " * (number % 5) + "nice"}]
        members = {}
        if number % 2:
            words.insert(0, {"type": "image", "image": "0.png"})
            members["0.png"] = png(number, 20 + 9 * number, 90 - 5 * number)
        members["json"] = json.dumps({"id": f"record-{number}", "content": words}).encode()
        records.append((f"{number:03}", members))
    path = tmp_path_factory.mktemp("records") / "some.tar"
    write_shard(path, records)
    return open_shards(path)


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """Makes a model in float64, by the kind of its backbone and its encoder's settings."""

    def make(
        kind: str = "sum",
        encoder: dict[str, object] | None = PATCHES,
        connector: ConnectorConfig = ConnectorConfig(),  # noqa: B008
    ) -> VisionLanguageModel:
        torch.manual_seed(0)
        backbone = replace(KINDS[kind], max_positions=600)
        model = VisionLanguageModel(
            ModelConfig(tokenizer="demo", encoder=encoder, connector=connector, backbone=backbone)
        )
        open_closed_paths(model)
        return model.double()

    return make


@pytest.fixture(scope="session")
def records_of(shards: ShardSet) -> Callable[[VisionLanguageModel], list[Record]]:
    return lambda model: find_records([shards], model.tokenizer, model.layout, of_each=2)


@pytest.fixture
def folder(shards: ShardSet) -> Path:
    return shards.shards[0].path
