"""Tars with real damage."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.doctor.walk import Span, walk
from data.shards import write_shard


def write_tar(
    path: Path, members: Sequence[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE, form: int = tarfile.GNU_FORMAT
) -> Path:
    """A tar by tarfile: any names in any order, which our own writer refuses."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size, header.type = len(data), kind
            tar.addfile(header, io.BytesIO(data))
    return path


def walked(path: Path) -> tuple[list[Span], list[tuple[str | None, str, str]], list[str]]:
    """The records of a tar, its faults, and what was skipped."""
    faults: list[tuple[str | None, str, str]] = []
    skipped: list[str] = []
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        spans = list(walk(file.fileno(), size, 0, lambda *fault: faults.append(fault), skipped.append))
    return spans, faults, skipped


@pytest.fixture
def tar() -> SimpleNamespace:
    return SimpleNamespace(write=write_tar, walked=walked)


@pytest.fixture
def shard(tmp_path: Path, make: SimpleNamespace) -> Callable[..., Path]:
    """Writes a clean shard of captions, `count` of them."""

    def write(name: str = "a.tar", count: int = 20, first: int = 0) -> Path:
        path = tmp_path / "set" / name
        write_shard(path, [make.picture_record(number) for number in range(first, first + count)])
        return path

    return write
