"""One's own pictures: a folder, shards, an examination, a training, a score and an answer, by the README's commands alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[3]
Vlm = Callable[..., tuple[int, str, str]]
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 200), "yellow": (230, 200, 40)}
SHAPES = ("circle", "square")
MINE = {
    "encoder": {"name": "encoders.PatchEncoder", "size_px": 32, "patch_px": 16},
    "connector": {"merge": 1},
    "backbone": {
        "width": 64,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_width": 32,
        "encoder_layers": 1,
        "concept_layers": 1,
        "decoder_layers": 1,
        "experts": {"num_experts": 2, "top_k": 1, "hidden": 64},
        "chunk": {"compression": 1.5},
    },
    "model": {"freeze": [], "feature_cache": None},
    "data": {"train": ["shards/train"], "val": ["shards/val"], "row_tokens": 512, "num_workers": 0},
    "optimizer": {"lr": 5e-3, "warmup_steps": 10},
    "trainer": {"max_steps": 200, "val_check_interval": 200, "default_root_dir": "runs/mine"},
}


def draw(number: int) -> tuple[Image.Image, str]:
    """A shape of one colour, nowhere twice alike, and its caption."""
    colour, shape = list(COLOURS)[number % 4], SHAPES[number // 4 % 2]
    image = Image.new("RGB", (48 + number % 7, 40 + number % 5), (235, 235, 235))
    left, top, side = 4 + number % 9, 3 + number % 6, 24 + number % 8
    box = (left, top, left + side, top + side)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=COLOURS[colour])
    image.putpixel((0, 0), (number, 0, 0))
    return image, f"a {colour} {shape}"


def put(folder: Path, numbers: range) -> None:
    folder.mkdir()
    for number in numbers:
        image, caption = draw(number)
        image.save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(caption + "\n")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_folder_of_captioned_pictures_becomes_a_model_that_names_them(
    vlm: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "photos", range(200))
    put(tmp_path / "others", range(200, 240))  # never trained on
    ask = ("--ask", "What is this?")
    code, out, _ = vlm("data", "write", "--from", "pictures", "photos", *ask, "--val", "0.1", "--out", "shards")
    assert (code, out.splitlines()[0]) == (0, "200 records in: 200 written, 0 faults, 0 left out")
    assert vlm("data", "write", "--from", "pictures", "others", *ask, "--benchmark", "--out", "questions")[0] == 0

    code, out, _ = vlm("data", "doctor", "shards/train", "shards/val", "--encoder", "encoders.PatchEncoder", "--json")
    found = json.loads(out)
    assert (code, found["faults"]["total"]) == (0, 0)

    Path("mine.yaml").write_text(yaml.safe_dump(MINE))
    # In a process of its own: the type checks of the tests would make it three times as long.
    fit = [sys.executable, "-m", "vlm.cli", "fit", "--config", "demo.yaml", "--config", "mine.yaml"]
    done = subprocess.run(fit, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr

    code, out, err = vlm(
        "eval", "--model", "runs/mine/model", "--shards", "questions", "--mode", "generate", "--json", "--blind", "full"
    )
    assert code == 0, err
    (scores,) = json.loads(out).values()
    assert scores["n"] == 40
    assert scores["unparsed"] == 0
    # Every answer has its "a" right; seen, colours and shapes come with it, blind they are guesses.
    assert scores["score"] > 0.65
    assert scores["score"] > scores["blind"] + 0.1

    code, out, _ = vlm(
        "generate", "--model", "runs/mine/model", "--image", "others/201.png", "--prompt", "What is this?"
    )
    assert code == 0
    assert out.strip() in {draw(number)[1] for number in range(8)}
