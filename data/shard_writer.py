"""Shards written record by record, closed when they are full; the same records in the same order give the same bytes.

In: (key, members), one after another. Out: `000000.tar`, `000001.tar`, ... as `write_shard` would write them. `write_shard`
takes the records of one shard from an iterator; here they come as they are made, for two splits at once.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from data.tar import BLOCK, write_member

PART = ".part"  # of a file that is not complete; hidden, and never read


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is complete under its name."""

    name: str
    bytes: int
    records: int
    sha256: str


class ShardWriter:
    """Writes into one folder, one shard at a time.

    Args:
        folder: made when the first shard is begun.
        max_bytes: a shard is closed before the record that would make it larger; a larger record has one of its own.
        max_records: the same for a number of records; None for any number.
        first: the number of the first shard.
    """

    def __init__(self, folder: Path, max_bytes: int | None, max_records: int | None, first: int = 0) -> None:
        self.folder, self._max_bytes, self._max_records = folder, max_bytes, max_records
        self._number, self._records, self._bytes = first, 0, 0
        self._file: BinaryIO | None = None

    def is_full(self, members: Mapping[str, bytes]) -> bool:
        """Whether the open shard must be closed before these members."""
        if self._records == 0:
            return False
        if self._max_records is not None and self._records >= self._max_records:
            return True
        return self._max_bytes is not None and self._bytes + tar_size(members) + 2 * BLOCK > self._max_bytes

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a record. Keys must differ; the caller's count up.

        Raises:
            OSError: it cannot be written; names the file.
            ValueError: a key or an extension that a reader would refuse.
        """
        with names_file(self._part):
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("wb")
            for extension, data in sorted(members.items()):
                write_member(self._file, key, extension, data)
        self._bytes += tar_size(members)
        self._records += 1

    def close(self) -> WrittenShard | None:
        """Complete the open shard, and put it under its name; None if there is none.

        Raises:
            OSError: it cannot be written; names the file.
        """
        if self._file is None:
            return None
        with names_file(self._part):
            self._file.write(bytes(2 * BLOCK))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            with self._part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.replace(self._part, self.folder / self._name)
            sync_folder(self.folder)
        done = WrittenShard(self._name, self._bytes + 2 * BLOCK, self._records, digest)
        self._file = None
        self._number, self._records, self._bytes = self._number + 1, 0, 0
        return done

    def discard(self) -> None:
        """Forget the open shard."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what was still in memory does not fit on the disk either
                self._file.close()
            self._part.unlink(missing_ok=True)
            self._file, self._records, self._bytes = None, 0, 0

    @property
    def _name(self) -> str:
        return f"{self._number:06}.tar"

    @property
    def _part(self) -> Path:
        return self.folder / f".{self._name}{PART}"

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()


def tar_size(members: Mapping[str, bytes]) -> int:
    """Bytes that members take in a tar."""
    return sum(BLOCK + (len(data) + BLOCK - 1) // BLOCK * BLOCK for data in members.values())


def sync_folder(folder: Path) -> None:
    """Put the names of a folder onto the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def names_file(path: Path) -> Iterator[None]:
    """Puts the file's name into an error that lacks it: `write` does not say what it wrote to."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
