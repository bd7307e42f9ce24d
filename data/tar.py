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

BLOCK = 512
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
    if fault := name_fault(name):
        raise ValueError(f"member {name!r} {fault}")
    if split_name(name) != (key, extension):
        raise ValueError(
            f"member {name!r} would be read as {split_name(name)}; keys have no dot, extensions no capitals"
        )
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


def name_fault(name: str) -> str | None:
    if len(name) > 255:
        return f"has a name of {len(name)} characters (the limit is 255)"
    if name.startswith("/") or ".." in name.split("/"):
        return "has a name that leaves the folder"
    if not name.isprintable():  # control characters, and bytes that are not UTF-8 (read as surrogates)
        return "has a name with characters that cannot be printed"
    split = split_name(name)
    if split and split[1].startswith("__"):
        return "has an extension that begins with __, which readers keep for themselves"
    return None


def scan(path: Path) -> TarIndex:
    """Walk the headers of a tar and check everything that can be checked without reading the data."""
    size = path.stat().st_size

    def fail(fault: str, advice: str = "fetch or write the shard again") -> BadShard:
        return BadShard(f"shard {path}: {fault}; {advice}")

    if path.is_dir():
        raise fail("is a folder", "give a folder of shards as the source, or the tar itself")
    index, current, seen = TarIndex(), "", set[str]()
    with path.open("rb", buffering=0) as file:
        number = file.fileno()
        magic = os.pread(number, 2, 0)
        if size == 0:
            raise fail("is empty")
        if magic in _COMPRESSED:
            raise fail(f"is compressed ({_COMPRESSED[magic]})", "unpack it: shards are plain tar files")
        offset, extended = 0, dict[str, str]()
        while True:
            block = os.pread(number, BLOCK, offset)
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
                    extended |= _extension(header.type, os.pread(number, num_bytes, start))
                except ValueError as error:
                    raise fail(f"is damaged at byte {start:,} ({error})") from None
                continue
            extended = {}
            if header.type in (tarfile.DIRTYPE, tarfile.XGLTYPE):
                continue
            if header.type not in tarfile.REGULAR_TYPES or header.issparse():
                raise fail(
                    f"member {name!r} is a link or a device", "store plain files: tar --dereference follows links"
                )
            if fault := name_fault(name):
                raise fail(f"member {name!r} {fault}", "write the shard with other names")
            split = split_name(name)
            if split is None:  # no extension, or a hidden file such as ._x.png: webdataset skips these too
                continue
            key, extension = split
            if key != current:
                if key in seen:
                    raise fail(
                        f"key {key!r} comes again after another key; the members of a record must lie side by side",
                        "sort the members by name and write it again",
                    )
                seen.add(key)
                index.keys.append(key)
                index.members.append([])
                current = key
            if any(extension == other for other, _, _ in index.members[-1]):
                raise fail(f"member {name!r} comes twice")
            index.members[-1].append((extension, start, num_bytes))
        _check_end(number, offset, size, fail)
    if extended:
        raise fail("ends after a member's extended header, without the member")
    return index


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


def _check_end(file: int, offset: int, size: int, fail: Callable[[str], BadShard]) -> None:
    """A tar closes with two empty blocks, and only zeros may follow: a second tar behind it would never be read."""
    if size - offset < 2 * BLOCK:
        raise fail(f"is cut short: it ends at byte {size:,} without the two empty blocks that close a tar")
    while offset < size:
        tail = os.pread(file, 2**20, offset)
        if any(tail):
            raise fail(f"has more data behind its end (after byte {offset:,}); two tars cannot be joined with cat")
        offset += len(tail)
