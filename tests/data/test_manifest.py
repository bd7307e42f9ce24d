import json
from pathlib import Path
from typing import Any

import pytest

from data.manifest import FORMAT
from data.shards import BadShard, open_shards, verify_manifest, write_manifest, write_shard

RECORDS = [(f"{i}", {"json": b"{}", "0.png": b"p" * (700 * i + 1)}) for i in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_shard(tmp_path / f"{i}.tar", RECORDS)
    write_manifest(tmp_path)
    return tmp_path


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset.json").read_text())


def test_a_manifest_says_what_there_is(folder: Path) -> None:
    manifest = read(folder)
    assert (manifest["format"], manifest["samples"]) == (FORMAT, 12)
    assert [shard["path"] for shard in manifest["shards"]] == ["0.tar", "1.tar", "2.tar"]
    assert verify_manifest(folder) == []


def test_manifests_of_earlier_versions_are_read(folder: Path) -> None:
    manifest = read(folder)
    del manifest["format"], manifest["shards"][0]["sha256"]
    (folder / "dataset.json").write_text(json.dumps(manifest))
    assert len(open_shards(folder)) == 12
    assert verify_manifest(folder) == []


def test_a_changed_bit_is_found_by_the_sha256(folder: Path) -> None:
    data = bytearray((folder / "1.tar").read_bytes())
    data[-1100] ^= 1
    (folder / "1.tar").write_bytes(data)
    [fault] = verify_manifest(folder)
    assert "1.tar" in fault
    assert "sha256" in fault


def test_every_difference_is_one_line(folder: Path) -> None:
    write_shard(folder / "0.tar", RECORDS[:2])
    (folder / "1.tar").write_bytes(b"")
    (folder / "2.tar").unlink()
    write_shard(folder / "3.tar", RECORDS)
    faults = "\n".join(verify_manifest(folder))
    for words in (
        "0.tar: has 5,632 bytes",
        "0.tar: has 2 records",
        "1.tar: is empty",
        "2.tar: No such file",
        "3.tar: is not in",
    ):
        assert words in faults
    assert len(faults.splitlines()) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ("[" * 10000, "nested"),
        ('{"shards": 3}', "cannot be read"),
        ('{"shards": [{"path": "a.tar"}]}', "bytes"),
        ('{"shards": [{"path": "a.tar", "bytes": "1", "samples": 1}]}', "whole numbers"),
        ('{"shards": [{"path": "a.tar", "bytes": true, "samples": 1}]}', "whole numbers"),
        ('{"shards": [{"path": ["a"], "bytes": 1, "samples": 1}]}', "needs a path"),
        ('{"shards": [], "format": "of-tomorrow"}', "of-tomorrow"),
        ('{"shards": [], "shards": []}', "twice"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    for call in (open_shards, verify_manifest):
        with pytest.raises(BadShard, match=rf"dataset\.json.*{words}"):
            call(tmp_path)


@pytest.mark.parametrize("path", ["../a.tar", "/a.tar", "x/../../a.tar", "pipe:ls", "s3://b/a.tar", "a\n.tar", ""])
def test_a_manifest_names_nothing_outside_its_folder(tmp_path: Path, path: str) -> None:
    entry = {"path": path, "bytes": 1, "samples": 1, "sha256": ""}
    (tmp_path / "dataset.json").write_text(json.dumps({"shards": [entry], "samples": 1}))
    with pytest.raises(BadShard, match="outside the folder"):
        open_shards(tmp_path)


def test_a_manifest_that_names_a_shard_twice_is_refused(folder: Path) -> None:
    manifest = read(folder)
    manifest["shards"].append(manifest["shards"][1])
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(BadShard, match=r"'1\.tar' twice"):
        open_shards(folder)


def test_writing_a_manifest_leaves_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["0.tar", "1.tar", "2.tar", "dataset.json"]
