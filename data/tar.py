"""The tar format as shards use it: which members are fit to read, where they lie, how one is written.

In: a plain tar. Out: a `TarIndex` of keys and byte ranges, or a `BadShard` for what a stream of members passes over in
silence: a file cut short, a second tar behind the first, a key that comes twice, links, names that leave the folder.
"""

import os
import re
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from data.member_names import looks_merged, name_fault, split_name
from data.tar_index import BLOCK, MAX_MEMBER_BYTES, IndexBuilder, TarIndex

__all__ = [
    "BLOCK",
    "MAX_MEMBER_BYTES",
    "BadShard",
    "TarIndex",
    "looks_merged",
    "name_fault",
    "scan",
    "split_name",
    "write_member",
]

# Where a header has octal numbers: mode, owner, group, size, time, device. The last byte of each field closes it.
_NUMBERS = ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (329, 337), (337, 345))
MAX_EXTENDED_BYTES = 2**20  # of the extended header of one member
HEADERS_AT_ONCE = 8192
MAX_PADDING_BYTES = 64 * 2**20  # of zeros behind the end; tar pads to 10 KiB if not told otherwise
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]+)=")
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}


class BadShard(ValueError):
    """A fault of a whole shard: the message names the file, what is wrong, and what to do."""


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


def foreign(start: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes if not a tar, and what to do; for files that are often taken for one."""
    if start[257:262] == b"ustar":
        return None
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return f"is compressed ({name})", "unpack it: shards are plain tar files"
    if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", start, re.IGNORECASE):
        return "is a page (HTML or XML), not a tar file", "a server sent an error or a log-in page; fetch it again"
    return None


Fail = Callable[..., BadShard]  # (fault, advice) -> the error to raise


def scan(path: Path) -> TarIndex:
    """Walk the headers of a tar and check everything that can be checked without reading the data.

    Raises:
        BadShard: what is wrong, and where.
        OSError: the file cannot be read.
    """

    def fail(fault: str, advice: str = "fetch or write the shard again") -> BadShard:
        return BadShard(f"shard {path}: {fault}; {advice}")

    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise fail("is a folder", "give a folder of shards as the source, or the tar itself")
    if not stat.S_ISREG(mode):  # to open a pipe would wait for ever
        raise fail("is not a regular file", "give a tar file")
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return _scan_plain(file.fileno(), size, fail) or _scan_any(file.fileno(), size, fail)


def _scan_plain(file: int, size: int, fail: Fail) -> TarIndex | None:
    """The index of a tar of plain files with short names, as `write_shard` makes it; None for any other, good or bad.

    tarfile takes 15 us for a header, most of it for a sum and eight numbers: 3 s for the demo's 184,000. Here all headers
    of a shard are checked together, in 2 us each.
    """
    members, offset, ended = _Members(fail), 0, False
    while not ended:
        blocks, places = list[bytes](), list[tuple[int, int]]()
        while len(blocks) < HEADERS_AT_ONCE:
            block = os.pread(file, BLOCK, offset)
            if len(block) < BLOCK:
                return None
            if not block[0]:
                ended = True
                break
            try:
                num_bytes = int(block[124:135], 8)
            except ValueError:
                return None
            if not 0 <= num_bytes <= MAX_MEMBER_BYTES:
                return None
            blocks.append(block)
            places.append((offset + BLOCK, num_bytes))
            offset += BLOCK + (num_bytes + BLOCK - 1) // BLOCK * BLOCK
        if not _plain(np.frombuffer(b"".join(blocks), np.uint8).reshape(-1, BLOCK)):
            return None
        for header, (start, num_bytes) in zip(blocks, places, strict=True):
            members.add(header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), start, num_bytes)
    if any(block):
        return None
    _check_end(file, offset, size, fail)
    return members.build()


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
    if size == 0:
        raise fail("is empty")
    if fault := foreign(os.pread(file, BLOCK, 0)):
        raise fail(*fault)
    members, offset, extended, is_pending = _Members(fail), 0, dict[str, str](), False
    while True:
        block = os.pread(file, BLOCK, offset)
        if len(block) < BLOCK:
            raise fail(f"is cut short: it ends at byte {size:,} without the two empty blocks that close a tar")
        if not any(block):
            break
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            start, num_bytes = offset + BLOCK, _number(extended["size"]) if "size" in extended else header.size
        except tarfile.HeaderError as error:
            what = "is not a tar file" if offset == 0 else f"is damaged at byte {offset:,}"
            raise fail(f"{what} ({error})") from None
        except ValueError as error:
            raise fail(f"is damaged at byte {offset:,} ({error})") from None
        name = extended.get("path", header.name)
        offset = start + (num_bytes + BLOCK - 1) // BLOCK * BLOCK
        if num_bytes > MAX_MEMBER_BYTES:
            raise fail(f"member {name!r:.300} has {num_bytes:,} bytes, the limit is {MAX_MEMBER_BYTES:,}", "split it")
        if num_bytes < 0 or offset > size:
            raise fail(f"is cut short inside member {name!r:.300} ({offset:,} bytes needed, {size:,} there)")
        if header.type in _EXTENDED:
            try:
                extended = extend(extended, header.type, read_extension(file, header.type, start, num_bytes))
            except ValueError as error:
                raise fail(f"is damaged at byte {start:,} ({error})") from None
            is_pending = True
            continue
        extended, is_pending = {}, False
        if header.type == tarfile.DIRTYPE and not num_bytes:
            continue
        if header.type not in _PLAIN_TYPES:
            advice = "store plain files: tar --dereference follows links"
            raise fail(f"member {name!r:.300} is a link or a device, or no plain file", advice)
        members.add(name, start, num_bytes)
    _check_end(file, offset, size, fail)
    if is_pending:
        raise fail("ends after a member's extended header, without the member")
    return members.build()


class _Members:
    """Puts members into an index, in their order, and refuses those that cannot be trusted."""

    def __init__(self, fail: Fail) -> None:
        self._index = IndexBuilder()
        self._fail, self._current, self._seen = fail, "", set[str]()
        self.build = self._index.build

    def add(self, name: str, start: int, num_bytes: int) -> None:
        split = split_name(name)
        if fault := name_fault(name, split):
            raise self._fail(f"member {name!r:.300} {fault}", "write the shard with other names")
        if split is None:  # no extension, or a hidden file such as ._x.png: webdataset skips these too
            self._index.skipped += 1
            return
        key, extension = split
        if key != self._current:
            if key in self._seen:
                raise self._fail(
                    f"key {key!r} comes again after another key; the members of a record must lie side by side",
                    "sort the members by name and write it again",
                )
            self._seen.add(key)
            self._index.add_key(key)
            self._current = key
        if not self._index.add_member(extension, num_bytes, start):
            raise self._fail(f"member {name!r} comes twice")


def read_extension(file: int, kind: bytes, start: int, num_bytes: int) -> dict[str, str]:
    """What an extended header says of the next member: its long name (GNU) or its records (pax)."""
    if num_bytes > MAX_EXTENDED_BYTES:
        raise ValueError(f"an extended header has {num_bytes:,} bytes, the limit is {MAX_EXTENDED_BYTES:,}")
    data = os.pread(file, num_bytes, start)
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    records, place = dict[str, str](), 0
    while place < len(data) and data[place]:
        match = _PAX_RECORD.match(data, place)  # "LENGTH name=value\n", the length counting itself
        end = place + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("a pax record is malformed")
        name = match[2].decode("utf-8", "surrogateescape")
        records[name] = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
        place = end
    if "path" in records:  # every reader takes a slash at its end for nothing, also that of a file
        records["path"] = records["path"].rstrip("/")
    return records


def extend(extended: dict[str, str], kind: bytes, records: dict[str, str]) -> dict[str, str]:
    """The next member as two extended headers describe it, where every reader agrees what that is."""
    if any(name.startswith("GNU.sparse") for name in records):
        raise ValueError("sparse members are not read")
    if "hdrcharset" in records:
        raise ValueError("names in another encoding are not read")
    if kind == tarfile.XGLTYPE:
        if records.keys() & {"path", "size"}:
            raise ValueError("an extended header gives one name or size to all members")
        return extended
    if extended.keys() & records.keys() & {"path", "size"}:
        raise ValueError("two extended headers name one member")
    return extended | records


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"a size is {text!r:.40}")
    return int(text)


def _check_end(file: int, offset: int, size: int, fail: Fail) -> None:
    """A tar closes with two empty blocks, and only zeros may follow: a second tar behind it would never be read."""
    if size - offset < 2 * BLOCK:
        raise fail(f"is cut short: it ends at byte {size:,} without the two empty blocks that close a tar")
    if size - offset > MAX_PADDING_BYTES:
        raise fail(f"goes on for {size - offset:,} bytes behind its end (byte {offset:,})")
    while offset < size:
        tail = os.pread(file, 2**20, offset)
        if any(tail):
            raise fail(f"has more data behind its end (after byte {offset:,}); two tars cannot be joined with cat")
        offset += len(tail)
