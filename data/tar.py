"""The tar format as shards use it: which members are fit to read, where they lie, how one is written.

In: a plain tar. Out: a `TarIndex` of keys and byte ranges, or a `BadShard` for what a stream of members passes over in
silence: a file cut short, a second tar behind the first, a key that comes twice, links, names that leave the folder.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

BLOCK = 512
# Where a header has octal numbers: mode, owner, group, size, time, device. The last byte of each field closes it.
_NUMBERS = ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (329, 337), (337, 345))
MAX_MEMBER_BYTES = 64 * 2**20
# webdataset's rule: directories belong to the key, the extension begins at the first dot of the base name.
MEMBER_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}


class BadShard(ValueError):
    """A fault of a whole shard: the message names the file, what is wrong, and what to do."""


class TarIndex:
    """Keys, and where the members of each lie: (extension, offset, size)."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.members: list[list[tuple[str, int, int]]] = []

    def fingerprint(self) -> str:
        return hashlib.blake2b(repr((self.keys, self.members)).encode(), digest_size=16).hexdigest()


def write_member(file: BinaryIO, key: str, extension: str, data: bytes) -> None:
    name = f"{key}.{extension}"
    split = split_name(name)
    if fault := name_fault(name, split):
        raise ValueError(f"member {name!r} {fault}")
    if split != (key, extension):
        raise ValueError(f"member {name!r} would be read as {split}; keys have no dot, extensions no capitals")
    if len(data) > MAX_MEMBER_BYTES:
        raise ValueError(f"member {name!r} has {len(data):,} bytes, the limit is {MAX_MEMBER_BYTES:,}")
    header = tarfile.TarInfo(name)
    header.size = len(data)
    file.write(header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
    file.write(data)
    file.write(bytes(-len(data) % BLOCK))


def split_name(name: str) -> tuple[str, str] | None:
    match = MEMBER_NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def name_fault(name: str, split: tuple[str, str] | None) -> str | None:
    if len(name) > 255:
        return f"has a name of {len(name)} characters (the limit is 255)"
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        return "has a name that leaves the folder"
    if not name.isprintable():  # control characters, and bytes that are not UTF-8 (read as surrogates)
        return "has a name with characters that cannot be printed"
    if split and split[1].startswith("__"):
        return "has an extension that begins with __, which readers keep for themselves"
    return None


Fail = Callable[..., BadShard]  # (fault, advice) -> the error to raise


def scan(path: Path) -> TarIndex:
    """Walk the headers of a tar and check everything that can be checked without reading the data."""

    def fail(fault: str, advice: str = "fetch or write the shard again") -> BadShard:
        return BadShard(f"shard {path}: {fault}; {advice}")

    if path.is_dir():
        raise fail("is a folder", "give a folder of shards as the source, or the tar itself")
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return _scan_plain(file.fileno(), size, fail) or _scan_any(file.fileno(), size, fail)


def _scan_plain(file: int, size: int, fail: Fail) -> TarIndex | None:
    """The index of a tar of plain files with short names, as `write_shard` makes it; None for any other, good or bad.

    tarfile takes 15 us for a header, most of it for a sum and eight numbers: 3 s for the demo's 184,000. Here all headers
    of a shard are checked together, in 2 us each.
    """
    blocks, starts, sizes, offset = [], [], [], 0
    while True:
        block = os.pread(file, BLOCK, offset)
        if len(block) < BLOCK:
            return None
        if not block[0]:
            break
        try:
            num_bytes = int(block[124:135], 8)
        except ValueError:
            return None
        if not 0 <= num_bytes <= MAX_MEMBER_BYTES:
            return None
        blocks.append(block)
        starts.append(offset + BLOCK)
        sizes.append(num_bytes)
        offset += BLOCK + (num_bytes + BLOCK - 1) // BLOCK * BLOCK
    if any(block) or not _plain(np.frombuffer(b"".join(blocks), np.uint8).reshape(-1, BLOCK)):
        return None
    members = _Members(fail)
    for block, start, num_bytes in zip(blocks, starts, sizes, strict=True):
        members.add(block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), start, num_bytes)
    _check_end(file, offset, size, fail)
    return members.index


def _plain(headers: UInt8[np.ndarray, "members 512"]) -> bool:
    """True if every header is that of a regular file without a prefix, with numbers as every writer pads them, and sums up."""
    if (headers[:, 156] != ord("0")).any() or headers[:, 345:500].any():
        return False
    for first, end in _NUMBERS:
        field = headers[:, first:end]
        digits = ((field[:, :-1] & 0xF8) == ord("0")).all(axis=1) & (field[:, -1] == 0)
        if not (digits | ~field.any(axis=1)).all():
            return False
    stored, closing = headers[:, 148:154], headers[:, 154:156]
    if ((stored & 0xF8) != ord("0")).any() or (closing != (0, ord(" "))).any():
        return False
    sums = headers.sum(axis=1, dtype=np.uint32) - headers[:, 148:156].sum(axis=1, dtype=np.uint32) + 8 * ord(" ")
    return bool(((stored & 7) @ 8 ** np.arange(5, -1, -1) == sums).all())


def _scan_any(file: int, size: int, fail: Fail) -> TarIndex:
    """Walk header by header; every dialect, and every fault by name."""
    magic = os.pread(file, 2, 0)
    if size == 0:
        raise fail("is empty")
    if magic in _COMPRESSED:
        raise fail(f"is compressed ({_COMPRESSED[magic]})", "unpack it: shards are plain tar files")
    members, offset, extended = _Members(fail), 0, dict[str, str]()
    while True:
        block = os.pread(file, BLOCK, offset)
        if len(block) < BLOCK:
            raise fail(f"is cut short: it ends at byte {size:,} without the two empty blocks that close a tar")
        if not any(block):
            break
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            what = "is not a tar file" if offset == 0 else f"is damaged at byte {offset:,}"
            raise fail(f"{what} ({error})") from None
        start, num_bytes = offset + BLOCK, int(extended.get("size", header.size))
        name = extended.get("path", header.name)
        offset = start + (num_bytes + BLOCK - 1) // BLOCK * BLOCK
        if num_bytes > MAX_MEMBER_BYTES:
            raise fail(f"member {name!r} has {num_bytes:,} bytes, the limit is {MAX_MEMBER_BYTES:,}", "split it")
        if num_bytes < 0 or offset > size:
            raise fail(f"is cut short inside member {name!r} ({offset:,} bytes needed, {size:,} there)")
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            try:
                extended |= _extension(header.type, os.pread(file, num_bytes, start))
            except ValueError as error:
                raise fail(f"is damaged at byte {start:,} ({error})") from None
            continue
        extended = {}
        if header.type in (tarfile.DIRTYPE, tarfile.XGLTYPE):
            continue
        if header.type not in tarfile.REGULAR_TYPES or header.issparse():
            raise fail(f"member {name!r} is a link or a device", "store plain files: tar --dereference follows links")
        members.add(name, start, num_bytes)
    _check_end(file, offset, size, fail)
    if extended:
        raise fail("ends after a member's extended header, without the member")
    return members.index


class _Members:
    """Puts members into an index, in their order, and refuses those that cannot be trusted."""

    def __init__(self, fail: Fail) -> None:
        self.index = TarIndex()
        self._fail, self._current, self._seen = fail, "", set[str]()

    def add(self, name: str, start: int, num_bytes: int) -> None:
        split = split_name(name)
        if fault := name_fault(name, split):
            raise self._fail(f"member {name!r} {fault}", "write the shard with other names")
        if split is None:  # no extension, or a hidden file such as ._x.png: webdataset skips these too
            return
        key, extension = split
        if key != self._current:
            if key in self._seen:
                raise self._fail(
                    f"key {key!r} comes again after another key; the members of a record must lie side by side",
                    "sort the members by name and write it again",
                )
            self._seen.add(key)
            self.index.keys.append(key)
            self.index.members.append([])
            self._current = key
        here = self.index.members[-1]
        if extension in [other for other, _, _ in here]:
            raise self._fail(f"member {name!r} comes twice")
        here.append((extension, start, num_bytes))


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    """What an extended header says of the next member: its long name (GNU) or its records (pax)."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    records = {}
    while data := data.lstrip(b"\0"):
        length = int(data.split(b" ", 1)[0])  # "LENGTH name=value\n", the length counting itself
        name, _, value = data[:length].partition(b" ")[2].partition(b"=")
        if not 4 < length <= len(data) or not value.endswith(b"\n"):
            raise ValueError("a pax record is malformed")
        records[name.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    if any(name.startswith("GNU.sparse") for name in records):
        raise ValueError("sparse members are not read")
    return records


def _check_end(file: int, offset: int, size: int, fail: Fail) -> None:
    """A tar closes with two empty blocks, and only zeros may follow: a second tar behind it would never be read."""
    if size - offset < 2 * BLOCK:
        raise fail(f"is cut short: it ends at byte {size:,} without the two empty blocks that close a tar")
    while offset < size:
        tail = os.pread(file, 2**20, offset)
        if any(tail):
            raise fail(f"has more data behind its end (after byte {offset:,}); two tars cannot be joined with cat")
        offset += len(tail)
