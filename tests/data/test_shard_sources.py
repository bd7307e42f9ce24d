import os
import time
from pathlib import Path

import pytest

from data.shard_sources import MAX_SHARDS, find_shards
from data.shards import BadShard, open_shards, write_shard

pytestmark = pytest.mark.long


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a-00", "a-01", "b-00", "deep/er/c-00", "deep/d-00"):
        write_shard(tmp_path / f"{name}.tar", [(name.replace("/", "-"), {"txt": b"x"})])
    (tmp_path / "._a-00.tar").write_bytes(b"what macOS leaves")
    (tmp_path / "notes.txt").write_text("no shard")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("a-00.tar", "a-00"),
        ("a-*.tar", "a-00 a-01"),
        ("*.tar", "a-00 a-01 b-00"),
        ("./*.tar", "a-00 a-01 b-00"),
        ("[ab]-00.tar", "a-00 b-00"),
        ("?-01.tar", "a-01"),
        ("**/*.tar", "a-00 a-01 b-00 deep/d-00 deep/er/c-00"),
        ("deep/**/*.tar", "deep/d-00 deep/er/c-00"),
        ("{b,a}-00.tar", "b-00 a-00"),
        ("{b,a}-*.tar", "b-00 a-00 a-01"),
        ("a-{00..01}.tar", "a-00 a-01"),
        (".", "a-00 a-01 b-00"),
        ("deep/../b-*.tar", "deep/../b-00"),
        (["b-00.tar", "a-*.tar"], "b-00 a-00 a-01"),
        (["deep", Path("a-01.tar")], "deep/d-00 a-01"),
    ],
)
def test_sources_are_found_in_order(tree: Path, source: str | list[str | Path], names: str) -> None:
    found = [os.path.relpath(str(place), ".") for place in find_shards(source)]
    assert found == [os.path.normpath(f"{name}.tar") for name in names.split()]
    assert len(open_shards(source)) == len(found)


def test_absolute_patterns_and_the_home_are_found(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert len(open_shards(tree / "*.tar")) == len(open_shards("~/*.tar")) == 3


def test_a_file_whose_name_has_wildcards_is_itself(tree: Path) -> None:
    write_shard(tree / "x[1]{2,3}*.tar", [("x", {"txt": b"x"})])
    assert open_shards("x[1]{2,3}*.tar").read(0)[0] == "x"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("c-*.tar", "matches no file"),
        ("nowhere/**/*.tar", "matches no file"),
        ("notes.*", "not a tar|cut short"),
        ("c-{00..01}.tar", r"c-00\.tar: No such file"),
        ("a-{00..01.tar", "Unbalanced"),
        ("{" * 120 + "a,b" + "}" * 120, "No such file"),
        (f"{'{' * 120}/" * 10 + "}" * 1200, "Unbalanced|recursion"),
        ("deep/**.tar", "pattern"),
        ([], "empty list"),
        ("x" * 5000, "too long"),
        ("a\0.tar", "null"),
        ("~nobody-of-that-name/a.tar", "home directory"),
        ("/proc/self/mem/*.tar", "matches no file"),
    ],
)
def test_what_is_not_there_is_named(tree: Path, source: str | list[str], words: str) -> None:
    with pytest.raises(BadShard, match=words):
        open_shards(source)


@pytest.mark.parametrize(
    "source",
    [
        "{0..999999999999}.tar",
        "{0..9999999999999999999999999}.tar",
        "{000..999}{000..999}{000..999}.tar",
        "{a,b}" * 40,
        "{" + "{a,b}" * 40 + ",x}",
        "{1..-999999999}",
        "{0..9999999999..2}",
        "{x,{0..999999999}}",
        r"\{{0..999999999}",
        "http://h/{0..999999999}.tar",
    ],
)
def test_a_pattern_for_too_many_files_is_refused_before_it_is_expanded(source: str) -> None:
    start = time.perf_counter()
    with pytest.raises(BadShard, match=rf"up to [0-9,]+ files, the limit is {MAX_SHARDS:,}"):
        open_shards(source)
    assert time.perf_counter() - start < 5


def test_folders_linked_in_a_circle_end(tree: Path) -> None:
    (tree / "deep" / "up").symlink_to(tree)
    (tree / "deep" / "er" / "up").symlink_to(tree)
    assert len(find_shards("**/*.tar")) == 5


def test_no_variable_is_expanded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", str(tree))
    for source in ("$WHERE/a-00.tar", "${WHERE}/a-00.tar", "${WHERE}/*.tar", "http://${WHERE}/a.tar"[7:]):
        with pytest.raises(BadShard, match=r"not expanded|matches no file"):
            open_shards(source)
