"""Walk a tar past its faults: where data/tar.py stops at the first, this names each and goes on to the next good header.

In: an open file. Out: records, as keys and byte ranges. What is refused is the same as there; a test holds the two together.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data.tar import BLOCK, MAX_MEMBER_BYTES, extend, name_fault, read_extension, split_name

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
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
    extended, is_pending, begins = dict[str, str](), False, offset
    while True:
        block = os.pread(file, BLOCK, offset)
        if len(block) < BLOCK:
            message = f"it ends at byte {size:,} without the two empty blocks that close a tar"
            return note(None, "cut short", f"is cut short: {message}")
        if not any(block):
            return _check_end(file, size, offset, is_pending, note)
        header = _plain(block) or _any(block)
        if header is None:
            what = "is no tar file" if offset == 0 else f"is damaged at byte {offset:,}: no header of a member"
            found = _next_header(file, offset + BLOCK)
            lost = "nothing can be read behind it" if found is None else f"read on at byte {found:,}"
            note(None, "not a tar" if offset == 0 else "damaged header", f"{what}; {lost}")
            if found is None:
                return None
            extended, is_pending, begins, offset = {}, False, found, found
            continue
        start = offset + BLOCK
        name = extended.get("path", header.name)
        try:
            num_bytes = header.size if "size" not in extended else _number(extended["size"])
        except ValueError:
            num_bytes = -1
        after = start + (num_bytes + BLOCK - 1) // BLOCK * BLOCK
        if num_bytes < 0 or after > size:
            needed = "fewer than 0" if num_bytes < 0 else f"{after:,}"
            message = f"is cut short inside member {name!r} ({needed} bytes needed, {size:,} there)"
            return note(_key(name), "cut short", message)
        if header.kind in EXTENDED:
            try:
                extended = extend(extended, header.kind, read_extension(file, header.kind, start, num_bytes))
            except ValueError as error:
                note(None, "damaged header", f"is damaged at byte {start:,} ({error})")
            is_pending, offset = True, after
            continue
        if num_bytes > MAX_MEMBER_BYTES:
            message = f"member {name!r} has {num_bytes:,} bytes, the limit is {MAX_MEMBER_BYTES:,}"
            note(_key(name), "member too large", message)
        elif header.kind in PLAIN:
            yield begins, name, start, num_bytes
        elif header.kind != tarfile.DIRTYPE or num_bytes:
            note(_key(name), "link or device", f"member {name!r} is a link or a device, or no plain file")
        extended, is_pending, begins, offset = {}, False, after, after


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
    return _Header(found.name, found.type, found.size)


def _next_header(file: int, offset: int) -> int | None:
    """The next block that is a sound header of this format."""
    while chunk := os.pread(file, STEP, offset):
        for place in range(0, len(chunk) - BLOCK + 1, BLOCK):
            if chunk[place + 257 : place + 262] == b"ustar" and _any(chunk[place : place + BLOCK]) is not None:
                return offset + place
        offset += len(chunk)
    return None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text[:40]!r} is no size")
    return int(text)


def _check_end(file: int, size: int, offset: int, is_pending: bool, note: Note) -> None:
    if size - offset < 2 * BLOCK:
        message = f"it ends at byte {size:,} without the two empty blocks that close a tar"
        return note(None, "cut short", f"is cut short: {message}")
    if is_pending:
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
