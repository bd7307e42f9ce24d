"""The committed files are whole, small, and checked."""

import hashlib
import json
from pathlib import Path

import pytest

from data.assets.pieces import ASSETS, MAX_PIECE_BYTES, Pieces, write_piece


def test_every_committed_file_has_its_checksum() -> None:
    files = {
        path.relative_to(ASSETS).as_posix()
        for name in ("lists", "pieces", "tokenizer")
        for path in (ASSETS / name).iterdir()
    }
    sums = Pieces().checksums
    assert files == set(sums)
    assert all(hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == sums[name] for name in files)


def test_pieces_are_within_their_limits() -> None:
    sizes = [path.stat().st_size for path in (ASSETS / "pieces").iterdir()]
    everything = [path.stat().st_size for path in ASSETS.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert max(sizes) <= MAX_PIECE_BYTES
    assert sum(everything) <= 12 * 1024 * 1024


def test_a_piece_depends_on_its_members_alone(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        write_piece(tmp_path / name, [("x.txt", b"one"), ("y.txt", b"two")])
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.tar.gz", "b.tar.gz"]


def test_a_piece_above_the_limit_is_refused(tmp_path: Path) -> None:
    noise = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(MAX_PIECE_BYTES // 32 + 4096))
    with pytest.raises(ValueError, match="split it into more pieces"):
        write_piece(tmp_path / "big.tar.gz", [("noise", noise)])
    assert not list(tmp_path.iterdir())


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    (tmp_path / "pieces").mkdir()
    write_piece(tmp_path / "pieces/a.tar.gz", [("x.txt", b"one")])
    sums = {"pieces/a.tar.gz": hashlib.sha256((tmp_path / "pieces/a.tar.gz").read_bytes()).hexdigest()}
    (tmp_path / "checksums.json").write_text(json.dumps(sums))
    assert Pieces(tmp_path).members("a") == {"x.txt": b"one"}
    (tmp_path / "pieces/a.tar.gz").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"a\.tar\.gz is damaged.*install the package again"):
        Pieces(tmp_path).members("a")
