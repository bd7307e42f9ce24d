"""A tiny run: shards of plain-coloured pictures, a config of a few steps."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from data.shards import write_manifest, write_shard

COLOURS = ("red", "green", "blue", "black")
Record = tuple[str, dict[str, bytes]]
Vlm = Callable[..., tuple[int, str, str]]


def png(colour: str, size_px: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size_px, size_px), colour).save(file, "PNG")
    return file.getvalue()


def record(number: int, picture: bytes | None = None) -> Record:
    """A question about a colour, with its answer; every third record is text alone."""
    colour = COLOURS[number % len(COLOURS)]
    if number % 3 == 2 and picture is None:
        document = {"id": str(number), "content": [{"type": "text", "text": f"{colour} is a colour"}]}
        return f"{number:04}", {"json": json.dumps(document).encode()}
    question = [{"type": "image", "image": "0.png"}, {"type": "text", "text": "What colour is this?"}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": colour}]
    conversation = {"id": str(number), "messages": messages}
    return f"{number:04}", {"json": json.dumps(conversation).encode(), "0.png": picture or png(colour)}


@pytest.fixture
def bad_records() -> list[Record]:
    """A picture that is none, and one whose header says 20,000 x 20,000."""
    bomb = png("red").replace((32).to_bytes(4, "big") * 2, (20_000).to_bytes(4, "big") * 2, 1)
    return [record(900, picture=b"\x89PNG\r\n\x1a\n no picture"), record(901, picture=bomb)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "a.tar", [record(i) for i in range(120)])
    write_manifest(folder)
    return folder


@pytest.fixture
def config(tmp_path: Path, shards: Path) -> Path:
    settings = {
        "encoder": {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 16, "width": 12},
        "backbone": {
            "width": 16,
            "num_heads": 2,
            "num_kv_heads": 1,
            "head_width": 8,
            "encoder_layers": 1,
            "concept_layers": 1,
            "decoder_layers": 1,
            "experts": {"num_experts": 2, "top_k": 1, "hidden": 8},
            "chunk": {"compression": 2.0},
        },
        "data": {
            "train": [str(shards)],
            "val": [{"path": str(shards), "name": "same"}],
            "row_tokens": 128,
            "num_workers": 0,
        },
        "optimizer": {"lr": 1e-2, "warmup_steps": 2},
        "trainer": {
            "default_root_dir": str(tmp_path / "run"),
            "accelerator": "cpu",
            "max_steps": 6,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
        },
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def vlm(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Vlm]:
    """Run the command as a user would; gives its exit code, output and errors."""
    from vlm.cli import main

    monkeypatch.delenv("VLM_TRACEBACK", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return code, out, err

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained: its answers are noise, but hang on all that it reads."""
    from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
    from vlm.connector import ConnectorConfig
    from vlm.model import ModelConfig, VisionLanguageModel

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
        init_std=0.3,
    )
    encoder = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 8, "width": 24}
    settings = {"tokenizer": "demo", "connector": ConnectorConfig(), "backbone": backbone}
    folder = tmp_path_factory.mktemp("run") / "model"
    VisionLanguageModel(ModelConfig(encoder=encoder, **settings)).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures and a text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        (folder / f"{colour}.png").write_bytes(png(colour))
    (folder / "words.txt").write_text("no picture")
    return folder
