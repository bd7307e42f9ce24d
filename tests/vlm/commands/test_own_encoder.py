"""An encoder of one's own: fifteen lines in a file beside the config, named by its class path."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from data.shards import write_manifest, write_shard
from tests.vlm.commands.conftest import COLOURS, png
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long
Vlm = Callable[..., tuple[int, str, str]]

OWN = """
from torch import nn
from data.image import ImageSpec
from encoders import encode_by_size

class Mine(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.spec = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.width = width
        self.patches = nn.Conv2d(3, width, 16, stride=16)
    def grid(self, height, width):
        return height // 16, width // 16
    def encode(self, images):
        return encode_by_size(self, images, self.patches)
"""
# What is wrong -> how the file differs, and what is said.
WRONG = {
    "width": ("self.width = width", "self.width = width + 1", "needed (12, 9)"),
    "count": ("return height // 16, width // 16", "return 3, 3", "data lay out slots by grid()"),
    "numbers": ("self.patches)", "lambda x: self.patches(x) / 0)", "not all finite numbers"),
    "batch": ("self.patches)", "lambda x: self.patches(x - x.mean(0)))", "other vectors alone than in a batch of 3"),
}


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The user stands in a folder with the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tower.py").write_text(OWN)
    saved = list(sys.path)
    yield "my_tower.Mine"
    sys.path[:] = saved
    sys.modules.pop("my_tower", None)


def choose(config: Path, encoder: object) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["encoder"] = encoder
    settings["trainer"] |= {"max_steps": 2, "val_check_interval": 2}
    config.write_text(yaml.safe_dump(settings))


def test_it_trains_is_saved_loaded_scored_and_answers(name: str, config: Path, tmp_path: Path, vlm: Vlm) -> None:
    assert len(OWN.strip().splitlines()) <= 15
    choose(config, {"name": name, "width": 12})
    code, out, err = vlm("fit", "--config", str(config))
    assert code == 0, err
    model = tmp_path / "run" / "model"
    loaded = VisionLanguageModel.from_pretrained(model)
    assert type(loaded.encoder).__name__ == "Mine"
    assert loaded.encoder.width == 12
    before = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(loaded.encoder.patches.weight, before["vlm.encoder.patches.weight"])

    questions = []
    for number, colour in enumerate(COLOURS):
        content = [{"type": "image", "image": "0.png"}, {"type": "text", "text": "What colour is this?"}]
        question = {"id": str(number), "content": content, "choices": list(COLOURS), "answer": number}
        questions.append((f"{number:04}", {"json": json.dumps(question).encode(), "0.png": png(colour)}))
    folder = tmp_path / "questions"
    folder.mkdir()
    write_shard(folder / "a.tar", questions)
    write_manifest(folder)
    options = (
        "--model",
        str(model),
        "--shards",
        str(folder / "a.tar"),
        "--mode",
        "choose",
        "--out",
        str(tmp_path / "e"),
    )
    code, out, err = vlm("eval", *options)
    assert code == 0, err
    assert "4" in out

    (tmp_path / "cat.png").write_bytes(png("red"))
    options = ("--model", str(model), "--image", "cat.png", "--prompt", "What is this?", "--max-new-tokens", "4")
    code, _, err = vlm("generate", *options)
    assert code == 0, err
    code, out, err = vlm("encoder", "check", name, "--set", "width=12")
    assert code == 0, out + err


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_one_is_refused_before_it_trains(fault: str, name: str, config: Path, tmp_path: Path, vlm: Vlm) -> None:
    old, new, told = WRONG[fault]
    assert old in OWN
    (tmp_path / "my_tower.py").write_text(OWN.replace(old, new))
    choose(config, name)
    code, _, err = vlm("fit", "--config", str(config))
    assert code == 2
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
