import errno
import io
import json
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import webdataset

from data import shard_file, tar
from data.sample import Part, parse_sample
from data.shards import BadShard, Shard, open_shards, write_manifest, write_shard

pytestmark = pytest.mark.long

RECORDS = [(f"{i:03d}", {"json": json.dumps({"id": str(i)}).encode(), "0.png": b"p" * (i * 300)}) for i in range(4)]


def write_tar(path: Path, members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE, fmt: int = 0) -> Path:
    with tarfile.open(path, "w", format=fmt) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size, header.type = len(data), kind
            tar.addfile(header, io.BytesIO(data))
    return path


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    shard = Shard(tmp_path / "a.tar")
    assert [shard.read(i) for i in range(len(shard))] == RECORDS
    assert [shard.key(i) for i in range(len(shard))] == [key for key, _ in RECORDS]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    write_shard(tmp_path / "b.tar", [(key, dict(reversed(members.items()))) for key, members in RECORDS])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert [file.name for file in tmp_path.iterdir()].count("a.tar") == len(list(tmp_path.iterdir())) - 1


def test_a_shard_cut_at_any_block_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    whole = (tmp_path / "a.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    for end in [*range(0, len(whole), 512), len(whole) - 1, 700]:
        cut.write_bytes(whole[:end])
        with pytest.raises(BadShard, match=r"cut\.tar"):
            Shard(cut)


def test_a_shard_cut_in_its_member_names_the_member(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:4000])
    with pytest.raises(BadShard, match=r"cut short.*fetch or write the shard again"):
        Shard(tmp_path / "a.tar")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its reader leaves the file open
def test_our_shards_open_in_webdataset(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [(r["__key__"], {k: v for k, v in r.items() if not k.startswith("__")}) for r in read] == RECORDS


def test_shards_that_webdataset_writes_open_here(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "%06d.tar"), maxcount=3, verbose=0) as sink:
        for key, members in RECORDS:
            sink.write({"__key__": "some/folder/" + key, **members})
    shards = open_shards(tmp_path)
    assert len(shards.shards) == 2
    assert [shards.read(i) for i in range(len(shards))] == [("some/folder/" + k, members) for k, members in RECORDS]


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_tar_dialect(tmp_path: Path, fmt: int) -> None:
    name = "d" * 90 + "/" + "é" * 40 + ".json"
    assert Shard(write_tar(tmp_path / "a.tar", [(name, b"{}")], fmt=fmt)).read(0) == (name[:-5], {"json": b"{}"})


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["a.json", "b.json", "a.0.png", "b.0.png"], "side by side"),
        (["a.json", "b.json", "a.json"], "comes again"),
        (["a.json", "a.JSON"], "comes twice"),
        (["../../etc/passwd.txt"], "leaves the folder"),
        (["/etc/passwd.txt"], "leaves the folder"),
        (["a\nb.txt"], "cannot be printed"),
        (["a" * 260 + ".txt"], "264"),
        (["a.__key__"], "begins with __"),
    ],
)
def test_members_that_cannot_be_trusted_are_refused(tmp_path: Path, members: list[str], words: str) -> None:
    write_tar(tmp_path / "a.tar", [(name, b"x") for name in members], fmt=tarfile.GNU_FORMAT)
    with pytest.raises(BadShard, match=words):
        Shard(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(BadShard, match="link or a device"):
        Shard(write_tar(tmp_path / "a.tar", [("a.json", b"")], kind))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<html>404</html>" * 100, "not a tar"),
        (b"\x1f\x8b" + bytes(2000), "gzip"),
        (b"short", "cut short"),
    ],
)
def test_files_that_are_no_tar_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadShard, match=words):
        Shard(tmp_path / "a.tar")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    damaged = bytearray((tmp_path / "a.tar").read_bytes())
    damaged[512 + 3] ^= 1
    (tmp_path / "a.tar").write_bytes(damaged)
    with pytest.raises(BadShard, match="damaged at byte 512"):
        Shard(tmp_path / "a.tar")


def test_two_tars_joined_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes() * 2)
    with pytest.raises(BadShard, match="behind its end"):
        Shard(tmp_path / "a.tar")


def test_a_member_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.png")
    header.size = 2**40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(BadShard, match="limit"):
        Shard(tmp_path / "a.tar")


def test_folders_patterns_and_manifests_open_the_same_records(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-00.tar", RECORDS[:1])
    write_shard(tmp_path / "s-01.tar", RECORDS[1:])
    folder = open_shards(tmp_path)
    pattern = open_shards(str(tmp_path / "s-{00..01}.tar"))
    write_manifest(tmp_path)
    sets = [folder, pattern, open_shards(tmp_path), open_shards(tmp_path / "dataset.json")]
    assert {shards.fingerprint() for shards in sets} == {folder.fingerprint()}
    assert [sets[2].read(i)[0] for i in range(4)] == [key for key, _ in RECORDS]


def test_the_manifest_is_held_against_the_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    write_manifest(tmp_path)
    write_shard(tmp_path / "a.tar", RECORDS[:3])
    with pytest.raises(BadShard, match=r"dataset\.json says"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    "source", ["nowhere.tar", "nowhere/", "x-{00..01}.tar", "pipe:ls", "ftp://bucket/a.tar", "d.json"]
)
def test_a_missing_or_unreadable_source_is_named(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadShard, match=r"nowhere|x-00|pipe:ls|ftp:|d\.json"):
        open_shards(source)


def test_an_empty_folder_and_a_manifest_that_points_outside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadShard, match=r"no \.tar"):
        open_shards(tmp_path)
    entry = {"path": "../a.tar", "bytes": 1, "samples": 1, "sha256": ""}
    (tmp_path / "dataset.json").write_text(json.dumps({"shards": [entry], "samples": 1}))
    with pytest.raises(BadShard, match="outside"):
        open_shards(tmp_path)


def test_a_shard_that_changes_under_the_reader_is_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    shard = Shard(tmp_path / "a.tar")
    write_shard(tmp_path / "a.tar", RECORDS[:2])
    with pytest.raises(BadShard, match="changed"):
        shard.read(0)


def test_a_shard_set_survives_many_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.shard_file.MAX_OPEN_FILES", 2)
    for i in range(5):
        write_shard(tmp_path / f"{i}.tar", [RECORDS[i % 4]])
    shards = open_shards(tmp_path)
    assert [shards.read(i) for i in (0, 4, 1, 0, 3)] == [RECORDS[i % 4] for i in (0, 4, 1, 0, 3)]


def test_threads_that_read_at_once_get_their_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.shard_file.MAX_OPEN_FILES", 1)  # so that each read pushes another's file out
    for i in range(4):
        write_shard(tmp_path / f"{i}.tar", [(f"{i}", {"txt": bytes([i]) * 5000})])
    shards = open_shards(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(shards.read, [i % 4 for i in range(4000)]))
    assert read == [(f"{i % 4}", {"txt": bytes([i % 4]) * 5000}) for i in range(4000)]


def test_a_disk_that_fails_now_and_then_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    shard = Shard(tmp_path / "a.tar")
    monkeypatch.setattr("data.shard_file.RETRY_PAUSES_S", (0.0,) * 4)
    faults, pread = (
        [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle"), 3, 0],
        os.pread,
    )

    def failing(file: int, size: int, offset: int) -> bytes:
        fault = faults.pop() if faults else size
        if isinstance(fault, OSError):
            raise fault
        return pread(file, fault, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert shard.read(3) == RECORDS[3]
    assert not faults


def test_a_disk_that_fails_for_good_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    shard = Shard(tmp_path / "a.tar")
    monkeypatch.setattr("data.shard_file.RETRY_PAUSES_S", (0.01, 0.01))

    def failing(file: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(BadShard, match=r"a\.tar: cannot be read \(Input/output error\), 3 tries"):
        shard.read(0)


def test_a_slash_behind_a_name_in_an_extended_header_is_nothing(tmp_path: Path) -> None:
    """As tarfile and webdataset read it; found by five minutes of random bytes."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        header = tarfile.TarInfo("0.x")
        header.size, header.pax_headers = 2, {"path": "0.json/"}
        tar.addfile(header, io.BytesIO(b"{}"))
    assert list(open_shards(path).read(0)) == ["0", {"json": b"{}"}]
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["0.json"]


def test_a_file_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    shard = Shard(tmp_path / "a.tar")
    shard.read(0)
    os.truncate(tmp_path / "a.tar", 1024)
    with pytest.raises(BadShard, match=r"a\.tar: changed after it was opened"):
        shard.read(3)


def test_a_file_that_is_deleted_is_an_error_unless_it_is_open(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    shard = Shard(tmp_path / "a.tar")
    shard.read(0)
    (tmp_path / "a.tar").unlink()
    assert shard.read(3) == RECORDS[3]
    shard_file._open_files.clear()
    with pytest.raises(BadShard, match="no longer there"):
        shard.read(3)


def test_a_shard_twice_in_a_source_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    (tmp_path / "b.tar").symlink_to(tmp_path / "a.tar")
    with pytest.raises(BadShard, match="comes twice"):
        open_shards(tmp_path)


def test_opening_tells_how_far_it_is(tmp_path: Path) -> None:
    for i in range(3):
        write_shard(tmp_path / f"{i}.tar", RECORDS)
    calls: list[tuple[int, int]] = []
    open_shards(tmp_path, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_shards_as_img2dataset_writes_them_are_read(tmp_path: Path) -> None:
    records = []
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as sink:
        for i in range(10):
            fields = {"key": f"{i:09d}", "caption": f"picture {i}", "url": "http://x", "status": "success", "width": 8}
            record = {"jpg": b"j" * i, "txt": f"picture {i}".encode(), "json": json.dumps(fields).encode()}
            sink.write({"__key__": f"{i:09d}", **record})
            records.append((f"{i:09d}", record))
    shards = open_shards(tmp_path / "00000.tar")
    assert [shards.read(i) for i in range(10)] == records
    sample = parse_sample(*shards.read(7))
    assert sample.content == (Part(image="jpg"), Part(text="picture 7"))
    assert sample.images == {"jpg": b"j" * 7}


@pytest.mark.parametrize("key", ["a.b", "../a", "/a", ""])
def test_keys_that_a_reader_would_refuse_are_not_written(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="member"):
        write_shard(tmp_path / "a.tar", [(key, {"txt": b""})])
    assert list(tmp_path.iterdir()) == []


Listed = list[tuple[str, list[tuple[str, int, int]]]]


def listed(index: tar.TarIndex) -> Listed:
    return [(index.key(i), index.places(i)) for i in range(len(index))]


def walked(path: Path) -> Listed | str:
    """What tarfile makes of a shard, header by header; an error as its words."""
    with path.open("rb") as file:
        try:
            return listed(
                tar._scan_any(file.fileno(), path.stat().st_size, lambda fault, advice="": BadShard(f"{path}: {fault}"))
            )
        except BadShard as error:
            return str(error)


def scanned(path: Path) -> Listed | str:
    try:
        return listed(tar.scan(path))
    except BadShard as error:
        return str(error)


def same(quick: object, slow: object) -> bool:
    """Equal, or errors of the same words: the advice, and the name of the file, stand around them."""
    if isinstance(quick, str) and isinstance(slow, str):
        return slow.partition(": ")[2] in quick
    return quick == slow


def test_plain_shards_are_scanned_without_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.tar", RECORDS)
    slow = walked(tmp_path / "a.tar")
    monkeypatch.setattr(tar, "_scan_any", lambda *_: pytest.fail("the slow path was taken"))
    assert scanned(tmp_path / "a.tar") == slow


def test_the_quick_scan_says_of_any_damage_what_tarfile_says(tmp_path: Path) -> None:
    write_shard(tmp_path / "whole.tar", RECORDS)
    whole, chance, path = (tmp_path / "whole.tar").read_bytes(), random.Random(0), tmp_path / "a.tar"
    headers = (tar.scan(tmp_path / "whole.tar").members["offset"] - 512).tolist()
    for trial in range(1500):
        damaged = bytearray(whole)
        header = chance.choice(headers)
        for _ in range(chance.randint(1, 3)):
            damaged[header + chance.randrange(512)] = chance.choice((0, 1, 32, 43, 46, 47, 48, 49, 55, 95, 128, 255))
        if trial % 2:  # the sum made right again, or nearly every damage would be seen by it alone
            damaged[header + 148 : header + 156] = b" " * 8
            damaged[header + 148 : header + 156] = b"%06o\0 " % sum(damaged[header : header + 512])
        path.write_bytes(damaged)
        os.utime(path, ns=(trial, trial))
        assert same(scanned(path), walked(path)), (trial, scanned(path), walked(path))
