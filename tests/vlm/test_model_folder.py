"""A model folder whose config is none: refused in one line that names the file.

The command runs in a process of its own, where the tests' check of types does not answer before the command does.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm.model_folder import MODEL_FILES, read_model_config

EXPERTS = {"num_experts": 2, "top_k": 1, "hidden": 8}
LAYERS = {"encoder_layers": 1, "concept_layers": 1, "decoder_layers": 1}
BACKBONE: dict[str, Any] = {
    "width": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_width": 8,
    **LAYERS,
    "experts": EXPERTS,
    "chunk": {"compression": 2.0},
}
SETTINGS = {"tokenizer": "tokenizer.json", "encoder": None, "connector": {}, "backbone": BACKBONE}


def config(**settings: Any) -> bytes:
    """A config with some of the backbone's settings changed; JSON is YAML too."""
    return json.dumps(SETTINGS | {"backbone": BACKBONE | settings}).encode()


# What is in config.yaml -> what the command says.
NO_CONFIGS = {
    config(wdith=3): "backbone has no setting wdith; known: width, ",
    config(concept_layers="two"): "backbone has a value of a wrong type: ",
    config(experts=None): "backbone.experts must be a mapping of settings, got None",
    config(chunk={"merge": "last"}): "backbone.chunk lacks compression",
    config(chunk={"compression": 2.0, "merge": "mean"}): "unknown merge 'mean'; known: sum, last",
    config(chunk={"compression": 2.0, "sigma": 0.1}): "sigma must be positive, and is an alternative to tau",
    config(chunk={"compression": "two"}): "backbone.chunk has a value of a wrong type: ",
    config(chunk=3): "backbone.chunk must be a mapping of settings, got 3",
    config(concept={"loop": {"first": 1, "layers": 1}}): "the loop covers concept layers 1 to 1",
    json.dumps(SETTINGS | {"backbone": 3}).encode(): "backbone must be a mapping of settings, got 3",
    json.dumps(SETTINGS | {"connector": {"colour": "red"}}).encode(): "unexpected keyword argument 'colour'",
    json.dumps(SETTINGS | {"connector": 3}).encode(): "must be a mapping, not int",
    json.dumps({"backbone": BACKBONE}).encode(): "it must hold backbone, connector, encoder",
    b"- encoder": "it must hold backbone, connector, encoder",
    b"hello": "it must hold backbone, connector, encoder",
    b"": "it must hold backbone, connector, encoder",
    b"\x89PNG\r\n\x1a\n": "can't decode byte 0x89",
    b"\xff\xfe\x00": "can't decode byte 0xff",
    b"backbone: [1": "while parsing a flow sequence",
    b"a\x00: 1": "special characters are not allowed",
}
CALL = """
import contextlib, io, json, sys
from vlm.cli import main

said = []
for folder in sys.argv[1:]:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main(["eval", "--model", folder, "--tasks", "demo"])
    said.append([code, errors.getvalue()])
print(json.dumps(said))
"""


def write_folder(folder: Path, content: bytes) -> Path:
    folder.mkdir()
    for name in MODEL_FILES:
        (folder / name).touch()
    (folder / "config.yaml").write_bytes(content)
    return folder


def test_the_config_is_read(tmp_path: Path) -> None:
    assert read_model_config(write_folder(tmp_path / "model", config(width=24))).backbone.width == 24


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, tuple[int, str]]:
    """Exit code and errors of a command that loads the model, by what is in its config."""
    root = tmp_path_factory.mktemp("folders")
    folders = [write_folder(root / str(place), content) for place, content in enumerate(NO_CONFIGS)]
    command = [sys.executable, "-c", CALL, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(NO_CONFIGS, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("content", NO_CONFIGS, ids=range(len(NO_CONFIGS)))
def test_a_config_of_another_kind_is_refused_by_name(said: dict[bytes, tuple[int, str]], content: bytes) -> None:
    code, err = said[content]
    assert code == 2
    assert "config.yaml is not the config of a model of this version" in err
    assert NO_CONFIGS[content] in err
    assert len(err.splitlines()) == 1
