"""The demo's shards come out the same, whole, or not at all."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.assets import expand as module
from data.assets.build.expected import digest
from data.assets.expand import demo_folder, expand, expected
from data.assets.pieces import Pieces
from data.assets.records import Record
from data.sample import parse_question, parse_sample
from data.shards import open_shards

pytestmark = pytest.mark.long

SMALL = ["val/emoji", "val/clipart", "test/caption"]
SUBSET = ["val/emoji", "val/scenes", "val/clipart", "val/text", "test/location", "test/held-out-category"]


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expanded")
    expand(folder, only=SUBSET)
    return folder


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the large sets, so that the whole walk takes a second."""
    everything = module.builders

    def some(pieces: Pieces) -> dict[str, Callable[[], Iterable[Record]]]:
        sets = everything(pieces)
        return {name: sets[name] for name in SMALL}

    monkeypatch.setattr(module, "builders", some)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def test_expanding_twice_gives_the_same_bytes(subset: Path, tmp_path: Path) -> None:
    expand(tmp_path, only=SUBSET)
    assert files_of(tmp_path) == files_of(subset)


@pytest.mark.parametrize("name", SUBSET)
def test_what_comes_out_is_what_the_build_made(subset: Path, name: str) -> None:
    assert digest(subset / name) == expected()[name]


def test_every_record_parses(subset: Path) -> None:
    for name in SUBSET:
        shards = open_shards(subset / name)
        parse = parse_question if name.startswith("test") else parse_sample
        for index in range(len(shards)):
            parse(*shards.read(index))


def test_no_turn_of_a_dialogue_repeats_a_question_and_other_records_hold_one(subset: Path) -> None:
    shards = open_shards(subset / "val/scenes")
    for index in range(len(shards)):
        sample = parse_sample(*shards.read(index))
        assert sample.messages is not None
        roles = [message.role for message in sample.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        asked = [message.parts[-1].text for message in sample.messages[::2]]
        is_dialogue = sample.key.endswith(("-ask", "-kinds", "-places"))
        assert len(set(asked)) == len(asked)
        assert is_dialogue or len(asked) == 1


@pytest.mark.usefixtures("small_world")
def test_a_second_call_finds_the_folder(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = demo_folder(tmp_path, lambda done, total: calls.append((done, total)))
    total = sum(expected()[name]["samples"] for name in SMALL)
    assert calls[0] == (0, total)
    assert calls[-1] == (total, total)
    stamp = folder.stat().st_mtime_ns
    assert demo_folder(tmp_path) == folder
    assert folder.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("small_world")
def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "here"))
    assert demo_folder().parent == tmp_path / "here"


@pytest.mark.usefixtures("small_world")
def test_an_interrupted_expansion_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_folder(tmp_path, interrupt)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("small_world")
def test_a_killed_expansion_is_not_taken_for_complete(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from data.assets.expand import demo_folder; from pathlib import Path\n"
        "demo_folder(Path(sys.argv[1]), lambda done, total: done and os.kill(os.getpid(), signal.SIGKILL))"
    )
    root = Path(module.__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(root)})
    assert killed.returncode == -signal.SIGKILL
    [partial] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert ".partial-" in partial.name
    folder = demo_folder(tmp_path)
    assert not partial.exists()
    assert all((folder / name / "dataset.json").exists() for name in SMALL)


@pytest.mark.usefixtures("small_world")
def test_callers_that_start_together_expand_once(tmp_path: Path) -> None:
    starts: list[int] = []

    def report(done: int, total: int) -> None:
        if not done:
            starts.append(total)

    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: demo_folder(tmp_path, report), range(3)))
    assert len(folders) == 1
    assert len(starts) == 1


@pytest.mark.usefixtures("small_world")
def test_a_cache_that_cannot_be_written_names_itself_and_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/cache .*CONCEPTVLM_CACHE"):
        demo_folder(tmp_path / "file" / "cache")


@pytest.mark.slow
def test_everything_comes_out_as_the_build_made_it(tmp_path: Path) -> None:
    folder = demo_folder(tmp_path)
    found = {path.parent.relative_to(folder).as_posix(): path for path in folder.glob("*/*/dataset.json")}
    assert set(found) == set(expected())
    for name, manifest in found.items():
        assert json.loads(manifest.read_text())["samples"] == expected()[name]["samples"]
        assert digest(manifest.parent) == expected()[name]
