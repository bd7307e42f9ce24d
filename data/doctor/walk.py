"""Walk a tar past its faults: where data/tar.py stops at the first, this names each and goes on to the next good header.

In: an open file. Out: records, as keys and byte ranges. What is refused is the same as there; a test holds the two together.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data.tar import BLOCK, MAX_MEMBER_BYTES, name_fault, split_name

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
LONG_NAMES = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
STEP = 2**20  # bytes of one read while the next header is looked for

Note = Callable[[str | None, str, str], None]  # (key or member, reason, message)


@dataclass(frozen=True)
class Span:
    """Where a record lies: (extension, offset, size) of each member."""

    key: str
    start: int  # of the first member's header
    members: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class _Header:
    name: str
    kind: bytes
    size: int
    is_sparse: bool = False


def walk(file: int, size: int, start: int, note: Note, skipped: Callable[[str], None]) -> Iterator[Span]:
    """The records from a header on, in order. The key of one that comes again, or mixed with others, is among the faults.

    Args:
        start: of a header.
        note: called with each fault.
        skipped: called with the name of each member that belongs to no record, as readers skip it.
    """
    seen: set[str] = set()
    key, first, members = "", start, list[tuple[str, int, int]]()
    for at, name, offset, num_bytes in _members(file, size, start, note):
        split = split_name(name)
        if fault := name_fault(name, split):
            note(split[0] if split else name, "bad member name", f"member {name!r} {fault}")
            continue
        if split is None:
            skipped(name)
            continue
        if split[0] != key:
            if members:
                yield Span(key, first, tuple(members))
            key, first, members = split[0], at, []
            if key in seen:
                note(key, "key again", f"key {key!r} comes again after another key; its members must lie side by side")
            seen.add(key)
        if split[1] in [extension for extension, _, _ in members]:
            note(key, "member twice", f"member {name!r} comes twice")
            continue
        members.append((split[1], offset, num_bytes))
    if members:
        yield Span(key, first, tuple(members))


def _members(file: int, size: int, offset: int, note: Note) -> Iterator[tuple[int, str, int, int]]:
    """(header, name, data, bytes) of each regular member."""
    if fault := _whole_file(file, size):
        return note(None, *fault)
    extended, begins = dict[str, str](), offset
    while True:
        block = os.pread(file, BLOCK, offset)
        if len(block) < BLOCK:
            message = f"it ends at byte {size:,} without the two empty blocks that close a tar"
            return note(None, "cut short", f"is cut short: {message}")
        if not any(block):
            return _check_end(file, size, offset, extended, note)
        header = _plain(block) or _any(block)
        if header is None:
            what = "is no tar file" if offset == 0 else f"is damaged at byte {offset:,}: no header of a member"
            found = _next_header(file, offset + BLOCK)
            lost = "nothing can be read behind it" if found is None else f"read on at byte {found:,}"
            note(None, "not a tar" if offset == 0 else "damaged header", f"{what}; {lost}")
            if found is None:
                return None
            extended, begins, offset = {}, found, found
            continue
        start = offset + BLOCK
        name = extended.get("path", header.name)
        try:
            num_bytes = int(extended.get("size", header.size))
        except ValueError:
            num_bytes = -1
        after = start + (num_bytes + BLOCK - 1) // BLOCK * BLOCK
        if num_bytes < 0 or after > size:
            needed = "fewer than 0" if num_bytes < 0 else f"{after:,}"
            message = f"is cut short inside member {name!r} ({needed} bytes needed, {size:,} there)"
            return note(_key(name), "cut short", message)
        if header.kind in LONG_NAMES and num_bytes <= MAX_MEMBER_BYTES:
            try:
                extended |= _extension(header.kind, os.pread(file, num_bytes, start))
            except ValueError as error:
                note(None, "damaged header", f"is damaged at byte {start:,} ({error})")
            offset = after
            continue
        if num_bytes > MAX_MEMBER_BYTES:
            message = f"member {name!r} has {num_bytes:,} bytes, the limit is {MAX_MEMBER_BYTES:,}"
            note(_key(name), "member too large", message)
        elif header.kind in (tarfile.DIRTYPE, tarfile.XGLTYPE):
            pass
        elif header.kind not in tarfile.REGULAR_TYPES or header.is_sparse:
            note(_key(name), "link or device", f"member {name!r} is a link or a device, not a plain file")
        else:
            yield begins, name, start, num_bytes
        extended, begins, offset = {}, after, after


def _whole_file(file: int, size: int) -> tuple[str, str] | None:
    magic = os.pread(file, 2, 0)
    if size == 0:
        return "empty file", "is empty"
    if magic in COMPRESSED and _any(os.pread(file, BLOCK, 0)) is None:
        return "compressed", f"is compressed ({COMPRESSED[magic]}); unpack it: shards are plain tar files"
    return None


def _plain(block: bytes) -> _Header | None:
    """The header of a plain file with a short name, in a third of tarfile's time; None for any other, good or bad."""
    if block[156] != ord("0") or any(block[345:500]):
        return None
    try:
        num_bytes, checksum = int(block[124:135], 8), int(block[148:154], 8)
    except ValueError:
        return None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != checksum:
        return None
    return _Header(block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), tarfile.REGTYPE, num_bytes)


def _any(block: bytes) -> _Header | None:
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return _Header(found.name, found.type, found.size, found.issparse())


def _next_header(file: int, offset: int) -> int | None:
    """The next block that is a sound header of this format."""
    while chunk := os.pread(file, STEP, offset):
        for place in range(0, len(chunk) - BLOCK + 1, BLOCK):
            if chunk[place + 257 : place + 262] == b"ustar" and _any(chunk[place : place + BLOCK]) is not None:
                return offset + place
        offset += len(chunk)
    return None


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    """What an extended header says of the next member: its long name (GNU) or its records (pax)."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    records = {}
    while data := data.lstrip(b"\0"):
        length = int(data.split(b" ", 1)[0])
        name, _, value = data[:length].partition(b" ")[2].partition(b"=")
        if not 4 < length <= len(data) or not value.endswith(b"\n"):
            raise ValueError("a pax record is malformed")
        records[name.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    if any(name.startswith("GNU.sparse") for name in records):
        raise ValueError("sparse members are not read")
    return records


def _check_end(file: int, size: int, offset: int, extended: dict[str, str], note: Note) -> None:
    if size - offset < 2 * BLOCK:
        message = f"it ends at byte {size:,} without the two empty blocks that close a tar"
        return note(None, "cut short", f"is cut short: {message}")
    if extended:
        note(None, "damaged header", "ends after a member's extended header, without the member")
    while offset < size:
        tail = os.pread(file, STEP, offset)
        if any(tail):
            message = f"has more data behind its end (after byte {offset:,}), which no reader sees"
            return note(None, "data behind the end", f"{message}; two tars cannot be joined with cat")
        offset += len(tail)
    return None


def _key(name: str) -> str:
    split = split_name(name)
    return split[0] if split else name
