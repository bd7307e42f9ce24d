import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data import shards
from data.shard_index import index_files, load_index, read_index
from data.shards import BadShard, Shard, ShardSet, write_shard
from data.tar import scan
from data.tar_index import MEMBER, TarIndex

pytestmark = pytest.mark.long

RECORDS = [(f"k{i:03d}", {"json": b"{}" * i, "0.png": b"p" * (i * 300), "txt": b""}) for i in range(40)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_shard(tmp_path / "data" / "a.tar", RECORDS)
    return tmp_path / "data" / "a.tar"


def listed(index: TarIndex) -> list[object]:
    return [(index.key(i), index.places(i)) for i in range(len(index))]


def open_anew(path: Path) -> Shard:
    """As a new process would."""
    shards._loaded.clear()
    return Shard(path)


def kept(path: Path) -> TarIndex | None:
    stat = path.stat()
    return read_index(index_files(path)[0], path, stat.st_size, stat.st_mtime_ns)


def test_the_index_is_kept_beside_the_tar_and_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Shard(path)
    assert [file.name for file in path.parent.iterdir() if file != path] == [".a.tar.index.npz"]
    monkeypatch.setattr("data.shard_index.scan", lambda *_: pytest.fail("scanned again"))
    again = open_anew(path)
    assert [again.read(i) for i in range(40)] == RECORDS
    assert again.fingerprint() == first.fingerprint()


def test_where_the_folder_cannot_be_written_the_index_is_kept_in_the_cache(path: Path, tmp_path: Path) -> None:
    os.mkdir(path.parent / ".a.tar.index.npz")  # also root cannot replace a folder by a file
    Shard(path)
    assert len(list((tmp_path / "cache" / "indexes").glob("*.npz"))) == 1
    assert read_index(index_files(path)[1], path, path.stat().st_size, path.stat().st_mtime_ns) is not None
    assert not list(tmp_path.rglob("*.part"))


def test_where_nothing_can_be_written_the_shard_is_read_all_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkdir(path.parent / ".a.tar.index.npz")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "file"))
    assert Shard(path).read(7) == RECORDS[7]


@pytest.mark.parametrize("what", ["another size", "another time", "the same size and time"])
def test_an_index_is_never_used_for_another_tar(path: Path, what: str) -> None:
    Shard(path)
    stat = path.stat()
    changed = [(f"x{key[1:]}", members) for key, members in RECORDS[: 39 if what == "another size" else 40]]
    write_shard(path, changed)
    if what == "the same size and time":
        os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size
    assert kept(path) is None
    assert open_anew(path).read(3) == changed[3]


def test_a_copied_index_of_another_tar_is_not_used(path: Path) -> None:
    Shard(path)
    write_shard(path.with_name("b.tar"), RECORDS[:20])
    shutil.copy(index_files(path)[0], path.with_name(".b.tar.index.npz"))
    assert len(Shard(path.with_name("b.tar"))) == 20


def test_any_damage_to_an_index_makes_it_anew(path: Path) -> None:
    index = Shard(path)._index
    file = index_files(path)[0]
    whole, chance = file.read_bytes(), random.Random(0)
    damages = [whole[: chance.randrange(len(whole))] for _ in range(40)] + [b"", b"text", os.urandom(3000)]
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damages.append(bytes(damaged))
    for damaged in damages:
        file.write_bytes(damaged)
        found = kept(path)
        assert found is None or listed(found) == listed(index)  # a bit that nothing reads
    file.write_bytes(damages[0])
    assert [open_anew(path).read(i) for i in range(40)] == RECORDS
    assert kept(path) is not None


def rewrite(path: Path, **changes: np.ndarray) -> None:
    """An index that somebody made on purpose: all checksums are right."""
    file = index_files(path)[0]
    with np.load(file) as loaded:
        arrays = dict(loaded)
    arrays |= changes
    try:
        parts = {name: arrays[name] for name in ("numbers", "names", "members")}
        index = object.__new__(TarIndex)
        index.__setstate__(parts)
        digest = np.frombuffer(bytes.fromhex(index.fingerprint()), np.uint8)
        arrays["digests"] = np.concatenate((digest, arrays["digests"][16:]))
    except (ValueError, IndexError, TypeError):
        pass
    with file.open("wb") as out:
        np.savez(out, **arrays)


def hostile(index: TarIndex, size: int) -> dict[str, dict[str, np.ndarray]]:
    arrays = index.arrays()

    def members(place: int, **fields: int) -> dict[str, np.ndarray]:
        changed = arrays["members"].copy()
        for name, value in fields.items():
            changed[place][name] = value
        return {"members": changed}

    def numbers(place: int, value: int) -> dict[str, np.ndarray]:
        changed = arrays["numbers"].copy()
        changed[place] = value
        return {"numbers": changed}

    def names(old: bytes, new: bytes) -> dict[str, np.ndarray]:
        assert len(old) == len(new)
        return {"names": np.frombuffer(arrays["names"].tobytes().replace(old, new), np.uint8)}

    return {
        "a member behind the end": members(-1, offset=size),
        "a member far away": members(-1, offset=2**62),
        "a member before the start": members(0, offset=-512),
        "a member over its own header": members(0, offset=0),
        "a member between blocks": members(5, offset=int(arrays["members"][5]["offset"]) + 1),
        "members over each other": members(5, offset=int(arrays["members"][4]["offset"])),
        "a negative size": members(3, size=-1),
        "a size beyond the tar": members(-1, size=2**26),
        "a size beyond all limits": members(-1, size=2**31 - 1),
        "an extension without a name": members(2, extension=99),
        "a negative extension": members(2, extension=-1),
        "an extension twice in a record": members(1, extension=int(arrays["members"][0]["extension"])),
        "a record that begins before the first member": numbers(3, -4),
        "a record behind the last member": numbers(-1, 10**6),
        "records in disorder": numbers(10, 0),
        "names longer than they are": numbers(1, 10**9),
        "names of a negative length": numbers(1, -1),
        "a key that leaves the folder": names(b"\nk007\n", b"\n../x\n"),
        "an absolute key": names(b"\nk007\n", b"\n/etc\n"),
        "a key that cannot be printed": names(b"k007", b"k\x1b[7"),
        "a key that is not UTF-8": names(b"k007", b"k\xff07"),
        "one key less": names(b"k007\n", b"k007_"),
        "an extension that leaves the folder": names(b"0.png", b"../pg"),
        "no numbers": {"numbers": np.array([], np.int64)},
        "floats": {"numbers": arrays["numbers"].astype(float)},
        "objects": {"members": np.array([print], object)},
        "two dimensions": {"members": arrays["members"].reshape(2, -1)},
        "other fields": {"members": np.zeros(3, [("a", "<i4")])},
    }


CASES = sorted(hostile(TarIndex(np.zeros(0, np.uint8), np.zeros(20, np.int64), np.zeros(8, MEMBER)), 0), key=str)


@pytest.mark.parametrize("case", CASES)
def test_an_index_made_on_purpose_is_not_believed(path: Path, case: str) -> None:
    stat = path.stat()
    load_index(path, stat.st_size, stat.st_mtime_ns)
    rewrite(path)
    assert kept(path) is not None  # so it is the change alone that is refused
    rewrite(path, **hostile(scan(path), stat.st_size)[case])
    assert kept(path) is None, case
    assert [open_anew(path).read(i) for i in range(40)] == RECORDS


def test_an_index_that_is_a_bomb_or_a_pipe_is_not_opened(path: Path) -> None:
    file = index_files(path)[0]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tar.npy", bytes(10_000_000))
    assert kept(path) is None
    with file.open("wb") as out:
        out.truncate(2**40)
    assert kept(path) is None
    file.unlink()
    os.mkfifo(file)
    assert kept(path) is None
    assert open_anew(path).read(0) == RECORDS[0]


def test_an_index_with_pickles_in_it_runs_nothing(path: Path, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    Shard(path)
    rewrite(path, members=np.array([Runs()], object))
    assert open_anew(path).read(0) == RECORDS[0]
    assert not (tmp_path / "ran").exists()


def test_a_shard_survives_pickling(path: Path) -> None:
    again = pickle.loads(pickle.dumps(ShardSet([Shard(path)])))
    assert [again.read(i) for i in range(40)] == RECORDS
    assert again.fingerprint() == ShardSet([Shard(path)]).fingerprint()


def test_processes_that_index_at_once_leave_one_good_index(path: Path) -> None:
    code = f"from data.shards import Shard; print(len(Shard({str(path)!r})))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["40\n"] * 4
    assert kept(path) is not None
    assert sorted(file.name for file in path.parent.iterdir()) == [".a.tar.index.npz", "a.tar"]


def test_members_and_heads_are_known_without_reading_the_rest(path: Path) -> None:
    shard = Shard(path)
    assert shard.members(7) == {"0.png": 2100, "json": 14, "txt": 0}
    assert shard.head(7, "0.png", 10) == b"p" * 10
    assert shard.head(7, "json", 100) == b"{}" * 7
    assert shard.read_member(7, "json") == b"{}" * 7
    with pytest.raises(KeyError):
        shard.head(7, "jpg", 10)


def test_a_million_records_take_fifty_bytes_each() -> None:
    keys = np.frombuffer(b"".join(b"%08d\n" % i for i in range(10**6)), np.uint8)
    members = np.zeros(2 * 10**6, MEMBER)
    members["offset"] = 512 + 1024 * np.arange(2 * 10**6)
    members["extension"][1::2] = 1
    index = TarIndex(keys, np.arange(0, 2 * 10**6 + 1, 2), members, ("jpg", "txt"))
    held = sum(array.nbytes for array in (index._keys, index._ends, index.firsts, index.members))
    assert held / 10**6 < 60
    assert index.places(999_999)[1] == ("txt", 0, 512 + 1024 * (2 * 10**6 - 1))


@pytest.mark.parametrize("dots", [True, False])
def test_members_without_a_record_are_counted(tmp_path: Path, dots: bool) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("README", "._0.png", "a.json") if dots else ("a.json",):
            header = tarfile.TarInfo(name)
            header.size = 2
            tar.addfile(header, io.BytesIO(b"{}"))
    for _ in range(2):
        shard = open_anew(tmp_path / "a.tar")
        assert (len(shard), shard.skipped) == (1, 2 if dots else 0)


def test_a_shard_that_changes_while_it_is_indexed_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = path.stat()
    write_shard(path, RECORDS[:5])
    with pytest.raises(BadShard, match="changed while it was read"):
        load_index(path, stat.st_size, stat.st_mtime_ns)
