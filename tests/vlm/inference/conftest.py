"""A tiny random model of two token layers and two concept layers, its tokenizer, and pictures of plain colours."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from data.sample import Part, Question
from data.tokenizer import SPECIAL_TOKENS
from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig, VisionLanguageModel

TEXTS = [
    "What is this? A red square.",
    "Is there a cat in the picture? yes no",
    "How many dogs are there? one two three",
]
MakeQuestion = Callable[..., Question]


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(TEXTS, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    fast.save(str(path))
    return path


@pytest.fixture(scope="session")
def model(tokenizer_file: Path) -> VisionLanguageModel:
    """Pictures are squares of 4 x 4 patches; the router is random: about half of the tokens close a concept."""
    torch.manual_seed(3)
    backbone = BackboneConfig(
        width=32,
        num_heads=2,
        num_kv_heads=1,
        head_width=16,
        encoder_layers=1,
        concept_layers=2,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=4, top_k=2, hidden=16),
        chunk=ChunkConfig(compression=2.0),
        init_std=0.3,  # far from the small start of training: a model whose answers hang on what it reads
    )
    encoder = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 8, "width": 24}
    settings = {"tokenizer": str(tokenizer_file), "connector": ConnectorConfig(), "backbone": backbone}
    return VisionLanguageModel(ModelConfig(encoder=encoder, **settings)).eval()


@pytest.fixture(scope="session")
def make_question() -> MakeQuestion:
    """A question about as many pictures as colours are given, pictures first."""

    def make(text: str, *colours: str, id: str = "q", **fields: object) -> Question:
        images = {f"{place}.png": png(colour) for place, colour in enumerate(colours)}
        content = (*(Part(image=name) for name in images), Part(text=text))
        return Question(key=id, id=id, content=content, images=images, **fields)  # type: ignore[arg-type]

    return make


def png(colour: str, size: tuple[int, int] = (40, 28)) -> bytes:
    """A circle of one colour on grey: a picture that differs from patch to patch."""
    image = Image.new("RGB", size, "lightgrey")
    ImageDraw.Draw(image).ellipse((4, 4, size[0] // 2, size[1] - 6), fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
