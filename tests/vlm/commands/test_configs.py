"""Configs that are none: every command that reads them says so in one line, and names the file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vlm.commands.configs import CONFIGS, find_config

Vlm = Callable[..., tuple[int, str, str]]
NO_CONFIGS = {
    b"": "is empty; leave it out",
    b"# only a comment\n": "is empty; leave it out",
    b"null\n": "is empty; leave it out",
    b"- trainer\n- data\n": "must be a mapping, got a value of type list",
    b"hello\n": "must be a mapping, got a value of type str",
    b"3\n": "must be a mapping, got a value of type int",
    b"\xff\xfe\x00\x01": "is no text in UTF-8",
    b"\x89PNG\r\n\x1a\n\x00": "is no text in UTF-8",
    b"trainer\x00: 3": "is no YAML",
    b"trainer: [1": "is no YAML",
    b"!!python/object:os.system x": "is no YAML",
    b"seed: 1\nseed: 2\n": "the key 'seed' stands twice",
    b"trainer: 3\n": "trainer must be a mapping of settings, got 3",
    b"trainer:\n": "trainer must be a mapping of settings, got None",
    b"backbone: []\n": "backbone must be a mapping of settings, got []",
    b"connector: 3\n": "connector must be a mapping of settings, got 3",
    b"model: 3\n": "model must be a mapping of settings, got 3",
}


@pytest.mark.parametrize("content", NO_CONFIGS, ids=range(len(NO_CONFIGS)))
@pytest.mark.parametrize("command", ["plan", "fit"])
def test_an_overlay_that_is_no_config_is_refused_by_name(
    vlm: Vlm, tmp_path: Path, command: str, content: bytes
) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_bytes(content)
    code, out, err = vlm(command, "--config", "demo.yaml", "--config", str(path))
    assert (code, out) == (2, "")
    assert str(path) in err
    assert NO_CONFIGS[content] in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["gone.yaml", "", "folder"])
def test_a_missing_config_and_a_folder_are_no_config(
    vlm: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    code, out, err = vlm("plan", "--config", name)
    assert (code, out) == (2, "")
    assert f"no config {name!r}" in err
    assert len(err.splitlines()) == 1


def test_a_value_that_is_no_yaml_is_refused_by_its_option(vlm: Vlm) -> None:
    code, out, err = vlm("fit", "--config", "demo.yaml", "--optimizer.lr", "[1")
    assert (code, out) == (2, "")
    assert '"optimizer.lr"' in err
    assert len(err.splitlines()) == 1


def test_configs_of_the_package_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [find_config(path.name) for path in CONFIGS.glob("*.yaml")] == [str(path) for path in CONFIGS.glob("*.yaml")]
