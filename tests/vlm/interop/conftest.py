"""A tiny random model, and pictures of plain colours."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig, VisionLanguageModel


@pytest.fixture(scope="session")
def model() -> VisionLanguageModel:
    torch.manual_seed(3)
    backbone = BackboneConfig(
        width=32,
        num_heads=2,
        num_kv_heads=1,
        head_width=16,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=2, top_k=1, hidden=16),
        chunk=ChunkConfig(compression=2.0),
        max_positions=200,
        init_std=0.3,  # far from the small start of training: a model whose answers hang on what it reads
    )
    encoder = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 8, "width": 24}
    settings = {"tokenizer": "demo", "connector": ConnectorConfig(), "backbone": backbone}
    return VisionLanguageModel(ModelConfig(encoder=encoder, **settings)).eval()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A JPEG whose metadata turn it by a quarter."""
    image = Image.radial_gradient("L").resize((40, 24)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    image.save(path, "JPEG", exif=exif)
    return path
