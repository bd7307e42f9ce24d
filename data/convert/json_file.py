"""Records out of JSON files of any size, one at a time: the lines of a JSONL file, the elements of a JSON list.

In: files. Out: `Item`s whose payload is the text of one record, not parsed yet: that is the workers' part, and strict. A file is never
in memory as a whole: LLaVA's lists have a gigabyte.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.convert.record import BAD_JSON, Item
from data.sample import MAX_JSON_BYTES, BadRecord, strict_json

_CHUNK = 2**20  # characters
_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


def find_files(sources: Sequence[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The files that sources name, in the order of their names; a folder stands for all files in it that have a suffix.

    Raises:
        ValueError: there is none, or one is named twice.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = [path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file()]
            if not inside:
                raise ValueError(f"{source}: no file there ends in {', '.join(suffixes)}")
            found += inside
        else:
            try:
                source.stat()
            except OSError as error:
                raise ValueError(f"cannot read {source}: {error.strerror}") from None
            if not source.is_file():
                raise ValueError(f"{source} is no regular file")
            found.append(source)
    found.sort(key=lambda path: path.as_posix())
    for path, following in itertools.pairwise(found):
        if path == following:
            raise ValueError(f"{path} is named twice; name each file once, itself or by its folder")
    return found


def size_of(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def json_items(files: Sequence[Path], images: Path | None) -> Iterator[Item]:
    """The records of JSON lists and of JSONL files; a file that begins with `[` is a list."""
    number = before = 0
    for path in files:
        with path.open("rb") as file:
            begins = file.read(_CHUNK).removeprefix(_BOM).lstrip()[:1]
        root = path.parent if images is None else images
        for where, payload, position in list_texts(path) if begins == b"[" else line_texts(path):
            yield Item(number, f"{path.name} {where}", payload, root, before + position)
            number += 1
        before += path.stat().st_size


def line_texts(path: Path) -> Iterator[tuple[str, bytes | BadRecord, int]]:
    """(`line 7`, its bytes, bytes read so far) of each line that is not empty; a line above the limit is a fault."""
    number = position = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_JSON_BYTES + 2):
            number += 1
            position += len(line)
            if number == 1:
                line = line.removeprefix(_BOM)
            if len(line) > MAX_JSON_BYTES + 1:
                while (rest := file.readline(_CHUNK)) and not rest.endswith(b"\n"):
                    position += len(rest)
                position += len(rest)
                yield (
                    f"line {number}",
                    BadRecord(f"the line is longer than {MAX_JSON_BYTES:,} bytes", BAD_JSON),
                    position,
                )
            elif line.strip():
                yield f"line {number}", line, position


def list_texts(path: Path) -> Iterator[tuple[str, bytes, int]]:
    """(`record 7`, its bytes, bytes read so far) of each element of a JSON list.

    Raises:
        ValueError: the file is cut short, or is no JSON between two elements.
    """
    decoder = json.JSONDecoder()
    number, place, text = 0, 0, ""

    def damaged(fault: str) -> ValueError:
        return ValueError(f"{path}: {fault} after {number:,} records; is the file complete?")

    try:
        with path.open("r", encoding="utf-8-sig", newline="") as file:
            while not text.strip():
                if not (text := file.read(_CHUNK)):
                    raise damaged("there is nothing")
            place = _skip(text, 0) + 1  # behind the bracket
            while True:
                # An element and the sign behind it, or more text.
                start = _skip(text, place)
                try:
                    if text[start : start + 1] == "]" and number == 0:
                        end = sign = start
                    else:
                        _, end = decoder.raw_decode(text, start)
                        sign = _skip(text, end)
                    complete = sign < len(text)
                except json.JSONDecodeError:
                    complete = False
                except RecursionError:
                    raise damaged("a record is nested too deeply") from None
                # A number may go on where the text ends: 1 in 1.5.
                if not complete or text[sign] not in ",]":
                    more = "" if len(text) - place > 4 * MAX_JSON_BYTES else file.read(max(_CHUNK, len(text) - place))
                    if not more and not complete:
                        raise damaged("the JSON list cannot be read on")
                    if more:
                        text, place = text[place:] + more, 0
                        continue
                if end > start:
                    number += 1
                    yield (
                        f"record {number}",
                        text[start:end].encode("utf-8", "surrogatepass"),
                        os.lseek(file.fileno(), 0, os.SEEK_CUR),
                    )
                if text[sign] == "]":
                    break
                if text[sign] != ",":
                    raise damaged(f"the JSON list has {text[sign : sign + 10]!r} where a comma belongs")
                place = sign + 1
            rest = text[sign + 1 :] + file.read(_CHUNK)
            if rest.strip():
                raise damaged(f"there is more behind the end of the JSON list ({rest.strip()[:20]!r})")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 after {number:,} records ({error.reason})") from None


def _skip(text: str, place: int) -> int:
    """Past white space."""
    match = _SPACE.match(text, place)
    return match.end() if match else place


def read_object(payload: bytes) -> dict[str, Any]:
    """The fields of one record.

    Raises:
        BadRecord: no JSON, or no object.
    """
    try:
        fields = strict_json(payload)
    except ValueError as error:
        raise BadRecord(f"cannot be read: {error}", BAD_JSON) from None
    if not isinstance(fields, dict):
        raise BadRecord(f"needs a JSON object, got {type(fields).__name__}", BAD_JSON)
    return fields


def read_id(fields: dict[str, Any]) -> str | None:
    """The id as a text; None if there is none.

    Raises:
        BadRecord: it is neither a text nor a whole number.
    """
    name = fields.get("id")
    if name is None:
        return None
    if type(name) is int or (isinstance(name, str) and name):
        return str(name)
    raise BadRecord(f"needs a text or a whole number as id, got {name!r:.80}")
