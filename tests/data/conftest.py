import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from PIL import Image

from data.image import ImageLayout, ImageSpec
from data.shards import write_shard
from data.tokenizer import SPECIAL_TOKENS, Tokenizer

SPEC = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def picture(seed: int, size: tuple[int, int] = (24, 16), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A stored picture of smooth noise, the same for the same arguments."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, kind)
    return file.getvalue()


def text_record(number: int, words: int = 6) -> tuple[str, dict[str, bytes]]:
    content = " ".join(f"word{(number * 7 + i) % 50}" for i in range(words))
    return f"t{number:05d}", {"json": json.dumps({"id": f"text-{number}", "content": content}).encode()}


def picture_record(number: int, data: bytes | None = None) -> tuple[str, dict[str, bytes]]:
    content = [{"type": "image", "image": "0.png"}, {"type": "text", "text": f"a picture of thing {number}"}]
    fields = json.dumps({"id": f"picture-{number}", "content": content}).encode()
    return f"p{number:05d}", {"json": fields, "0.png": picture(number) if data is None else data}


def write_records(folder: Path, records: Sequence[tuple[str, dict[str, bytes]]], per_shard: int = 40) -> str:
    for start in range(0, len(records), per_shard):
        write_shard(folder / f"{start:06d}.tar", records[start : start + per_shard])
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"a picture of thing {i} word{i}" for i in range(50)), trainer)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="session")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer(tokenizer_file)


@pytest.fixture
def layout() -> ImageLayout:
    return ImageLayout(SPEC, (2, 3))


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Makers of pictures, records and folders of shards."""
    return SimpleNamespace(
        picture=picture, text_record=text_record, picture_record=picture_record, write_records=write_records, spec=SPEC
    )
