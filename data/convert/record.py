"""What passes through a conversion: an item of the source, a draft of its record, and the record or the fault that it becomes.

In: `Item`s, numbered as the source has them. Out: for each exactly one `Record` or `Fault`, so nothing is lost in silence.
A format makes an item into a `Draft` (the JSON, and which pictures it wants); all formats share what follows: pictures are read,
checked and named, and the result must be read by `parse_sample` or `parse_question`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from data.convert.picture_file import picture_extension, read_picture
from data.sample import BadRecord, parse_question, parse_sample

# The first records of a source that is no such source all fail with one of these: then the format is named wrongly.
OTHER_FORMAT, BAD_JSON = "other format", "bad JSON"
QUESTION_FIELDS = ("answers", "choices", "box")


class LeftOut(BadRecord):
    """Not a fault: the user asked for such items to be left out; they are counted."""


@dataclass(frozen=True)
class Item:
    """A line, a row, a file: what one record is made of."""

    number: int  # its place in the source, from 0; the record's key
    where: str  # for messages: "captions.jsonl line 7"
    payload: Any  # what the format reads; a BadRecord if it could not even be taken out of its file
    root: Path  # the folder of its pictures
    position: int  # how much of the source is read once it is, in the units of `Format.size`


@dataclass(frozen=True)
class Draft:
    """A record whose pictures are not read yet."""

    id: str | None  # None: the source has none
    fields: Mapping[
        str, Any
    ]  # the JSON without its id; a picture is {"type": "image", "image": 0}, its place in `pictures`
    pictures: tuple[str | bytes, ...]  # names below the item's root, or the pictures themselves


@dataclass(frozen=True)
class Record:
    """A record as it is written."""

    number: int
    where: str
    members: Mapping[str, bytes]
    content: str | None  # hash of its first picture, or of its text if it has none; None if nobody asked

    @property
    def key(self) -> str:
        return key_of(self.number)


@dataclass(frozen=True)
class Fault:
    """Why an item is no record."""

    number: int
    where: str
    reason: str
    message: str
    left_out: bool = False  # True: as the user asked


@dataclass(frozen=True)
class Glance:
    """What must be known of all records before the first is written."""

    number: int
    id_digest: bytes | None  # 16 bytes; None: the id is made, and its own
    pictures: tuple[str, ...]  # hashes, if the record has more than one


class Wanted:
    """Which items are still to be written: all from `start` on, and some before it."""

    def __init__(self, start: int = 0, earlier: frozenset[int] = frozenset()) -> None:
        self._start, self._earlier = start, earlier

    def __contains__(self, number: int) -> bool:
        return number >= self._start or number in self._earlier

    def any(self, first: int, end: int) -> bool:
        """Whether one of `first` to `end` - 1 is."""
        return end > self._start or any(first <= number < end for number in self._earlier)


@runtime_checkable
class Format(Protocol):
    """A source in one format. Made in the main process, sent to the workers, so it holds settings and no data."""

    def files(self) -> list[Path]:
        """All files that the items are made of, but for pictures that records name."""

    def size(self) -> int:
        """How much there is to read, in the units of an item's position."""

    def items(self, whole: bool, wanted: Wanted) -> Iterator[Item]:
        """The items in an order that hangs on nothing but names and contents.

        Args:
            whole: False if only ids matter and pictures may be left out.
            wanted: an item that is not in it may be left out.

        Raises:
            ValueError: the source as a whole cannot be read; says what it is instead.
        """

    def identify(self, item: Item) -> str | None:
        """The id that a record will have, of an item that may not be whole; called in a worker.

        Raises:
            BadRecord: as `draft`.
        """

    def draft(self, item: Item) -> Draft:
        """Called in a worker.

        Raises:
            BadRecord: what is wrong, without naming the item.
        """


def key_of(number: int) -> str:
    return f"{number:08}"


@dataclass(frozen=True)
class Maker:
    """Makes records of items; picklable, for the workers.

    Args:
        number_ids: give each record its key as id, whatever the source has.
        verify: decode each picture.
        with_content: hash what decides on which side of a split a record lies.
    """

    format: Format
    number_ids: bool
    verify: bool
    with_content: bool

    def glance(self, items: list[Item]) -> list[Glance | Fault]:
        """Look at items without reading more than is needed."""
        return [self._tried(item, self._glance) for item in items]

    def make(self, items: list[Item]) -> list[Record | Fault]:
        """Make items into records."""
        return [self._tried(item, self._make) for item in items]

    def _tried(self, item: Item, work: Any) -> Any:
        try:
            if isinstance(item.payload, BadRecord):
                raise item.payload
            return work(item)
        except BadRecord as fault:
            return Fault(item.number, item.where, fault.reason, str(fault), isinstance(fault, LeftOut))

    def _glance(self, item: Item) -> Glance:
        pictures: tuple[str, ...] = ()
        if self.with_content:
            draft = self.format.draft(item)
            name = draft.id
            if len(draft.pictures) > 1:
                pictures = tuple(content_hash(read_picture(item.root, picture)) for picture in draft.pictures)
        else:
            name = self.format.identify(item)
        is_own = name is not None and not self.number_ids
        return Glance(item.number, _id_digest(str(name)) if is_own else None, pictures)

    def _make(self, item: Item) -> Record:
        draft = self.format.draft(item)
        members: dict[str, bytes] = {}
        names = []
        for place, picture in enumerate(draft.pictures):
            data = read_picture(item.root, picture)
            names.append(f"{place}.{picture_extension(data, self.verify, _shown(picture, place))}")
            members[names[-1]] = data
        name = key_of(item.number) if draft.id is None or self.number_ids else draft.id
        fields = {"id": name, **_with_names(draft.fields, names)}
        members["json"] = _dump(fields)
        parse = parse_question if any(field in fields for field in QUESTION_FIELDS) else parse_sample
        parse(key_of(item.number), members)
        return Record(item.number, item.where, members, self._content(draft, members, names))

    def _content(self, draft: Draft, members: Mapping[str, bytes], names: list[str]) -> str | None:
        if not self.with_content:
            return None
        return content_hash(members[names[0]] if names else _dump(draft.fields))


def _id_digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def content_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _dump(fields: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord("has a lone surrogate, which is not a character", "bad text") from None
    except (ValueError, TypeError) as error:  # parquet has NaN, dates and bytes, JSON has not
        raise BadRecord(f"cannot be written as JSON: {error}", BAD_JSON) from None


def _shown(picture: str | bytes, place: int) -> str:
    return repr(picture) if isinstance(picture, str) else f"number {place}"


def _with_names(value: Any, names: list[str]) -> Any:
    """The fields with each picture's place replaced by its member; only in content and messages."""
    return value | {name: _parts_with_names(value[name], names) for name in ("content", "messages") if name in value}


def _parts_with_names(parts: Any, names: list[str]) -> Any:
    if not isinstance(parts, list):
        return parts
    return [_part_with_name(part, names) for part in parts]


def _part_with_name(part: Any, names: list[str]) -> Any:
    if not isinstance(part, dict):
        return part
    if type(part.get("image")) is int:
        return part | {"image": names[part["image"]]}
    return part | {"content": _parts_with_names(part["content"], names)} if "content" in part else part
