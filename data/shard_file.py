"""Bytes of shards by position: files opened where they are read, few at a time, and asked again when a disk or a network fails.

In: a file, and what it was when it was opened first. Out: exactly the bytes asked for, or a `BadShard` that names it.
A fault of reading is never a reason to go on without the record: the order of the data would depend on the network.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from data.tar import BadShard

MAX_OPEN_FILES = 128
RETRY_PAUSES_S = (0.1, 0.5, 2.0, 8.0)  # before each further try


class Stamp(NamedTuple):
    """What a file was when its index was made: a change of either is a change of the file."""

    size: int
    mtime_ns: int


class _OpenFile:
    """A descriptor that closes when nobody holds it: another thread may push it out of the list in the middle of a read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when the process ends
        close(self.descriptor)


_open_files: OrderedDict[tuple[str, int, int], _OpenFile] = OrderedDict()


class ShardFile:
    """One file to read from. Survives pickling and forking: it is opened by the process that reads.

    Args:
        name: for messages.
        identity: of the file; files of one identity share a descriptor.
        stamp: what the file must be.
        open_file: returns a descriptor of it.
    """

    def __init__(self, name: str, identity: tuple[str, int, int], stamp: Stamp, open_file: Callable[[], int]) -> None:
        self.name, self.identity, self.stamp, self._open_file = name, identity, stamp, open_file

    def read(self, size: int, offset: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            BadShard: the file has changed, or could not be read in several tries.
        """
        try:
            file = self.open()  # held while it is read, or another thread might close it
            data = os.pread(file.descriptor, size, offset)
        except OSError:
            data = b""
        return data if len(data) == size else self._read_again(size, offset)

    def open(self) -> _OpenFile:
        """The open file, kept among the last `MAX_OPEN_FILES`."""
        try:
            _open_files.move_to_end(self.identity)
            return _open_files[self.identity]
        except (KeyError, RuntimeError):
            file = _OpenFile(self._open_file())
        self._check(file)
        # Other threads move entries meanwhile, on which an OrderedDict then stumbles; a file more or less does not matter.
        with suppress(KeyError, RuntimeError):
            _open_files[self.identity] = file
            while len(_open_files) > MAX_OPEN_FILES:
                _open_files.popitem(last=False)
        return file

    def _check(self, file: _OpenFile) -> None:
        stat = os.fstat(file.descriptor)
        if (stat.st_size, stat.st_mtime_ns) != self.stamp:
            raise BadShard(
                f"shard {self.name}: changed after it was opened; start again, and leave the file alone meanwhile"
            )

    def _read_again(self, size: int, offset: int) -> bytes:
        fault = ""
        for pause_s in (0.0, *RETRY_PAUSES_S):
            time.sleep(pause_s)
            try:
                file = self.open()
                parts, missing = [], size
                while missing and (part := os.pread(file.descriptor, missing, offset + size - missing)):
                    parts.append(part)
                    missing -= len(part)
                if not missing:
                    return b"".join(parts)
                self._check(file)
                fault = f"{missing:,} of {size:,} bytes at {offset:,} do not come"
            except FileNotFoundError:
                raise BadShard(f"shard {self.name}: is no longer there; bring it back and start again") from None
            except OSError as error:
                fault = error.strerror or str(error)
            _open_files.pop(self.identity, None)  # a stale handle stays stale
        raise BadShard(
            f"shard {self.name}: cannot be read ({fault}), {len(RETRY_PAUSES_S) + 1} tries in {sum(RETRY_PAUSES_S):.3g} s; "
            "check the disk or the network, then start again: no record has been skipped"
        )


def close_deleted_files() -> None:
    """Let go of files that have no name any more, so that their space is free. A read under way keeps its own."""
    for identity, file in list(_open_files.items()):
        if not os.fstat(file.descriptor).st_nlink:
            _open_files.pop(identity, None)
