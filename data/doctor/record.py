"""One record: read as training reads it, measured, and its faults named.

In: a key and the members. Out: figures in a `Tally`. A record is taken for a question where its JSON has `content` and one of
`answers`, `choices` and `box`; with `as_questions` every record is.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.doctor.tally import KINDS, Tally
from data.image import check_header, decode, picture_key
from data.image_header import upright_size
from data.image_layout import ImageLayout
from data.sample import (
    IMAGE_EXTENSIONS,
    BadRecord,
    Message,
    Part,
    Question,
    Sample,
    parse_question,
    parse_sample,
    strict_json,
)
from data.text import Row, prompt_row, sample_row
from data.tokenizer import Tokenizer

SCORED_BY = ("answers", "choices", "box")  # fields of which a question has one at least
FEW_LETTERS = 3  # a caption with fewer letters and digits is nearly empty
TINY_PX = 10  # a picture with a shorter side is hardly one
MOST = 2**31 - 1  # that a column holds


def parse_record(key: str, members: Mapping[str, bytes], as_questions: bool = False) -> Sample | Question:
    """A question where it has a question's fields, else a record to train on.

    Raises:
        BadRecord: names the key and what is wrong.
    """
    if as_questions or _looks_like_a_question(members.get("json", b"")):
        return parse_question(key, members)
    return parse_sample(key, members)


def token_row(record: Sample | Question, tokenizer: Tokenizer, layout: ImageLayout | None) -> Row:
    """The record's tokens; without its pictures where there is no layout. Of a question: its prompt.

    Raises:
        BadRecord: a picture's header is bad.
    """
    if layout is None:
        record = _without_pictures(record)
    if isinstance(record, Question):
        return prompt_row(record.content, record.images, tokenizer, layout)
    return sample_row(record, tokenizer, layout)


def turns_of(record: Sample | Question) -> tuple[tuple[str | None, tuple[Part, ...]], ...]:
    """(role, parts) of each turn; a document has one, and no role."""
    if isinstance(record, Sample) and record.messages is not None:
        return tuple((message.role, message.parts) for message in record.messages)
    return ((None, record.content or ()),)


@dataclass(frozen=True)
class RecordReader:
    """Measures records, one after another.

    Args:
        tokenizer: of the run.
        layout: how many slots a picture takes; None counts the tokens of texts alone.
        as_questions: every record is a benchmark's.
        row_tokens: of one packed row.
        decodes: every picture is decoded.
    """

    tokenizer: Tokenizer
    layout: ImageLayout | None = None
    as_questions: bool = False
    row_tokens: int = 4096
    decodes: bool = False

    def measure(
        self, tally: Tally, shard: Path, number: int, key: str, members: Mapping[str, bytes], decodes: bool = False
    ) -> Sample | Question | None:
        """Add a record to a tally.

        Args:
            number: of the record among all.
            decodes: decode this one's pictures.

        Returns:
            The record, or None where it is bad: then its faults are in the tally.
        """
        tally.num_read += 1
        for extension, data in members.items():
            kind = _kind_of_member(extension)
            tally.bytes_of[kind] += len(data)
            if kind == "ignored":  # such as 2.txt: no reader looks for more than one text
                tally.ignored[extension.rsplit(".", 1)[-1]] += 1
        try:
            record = parse_record(key, members, self.as_questions)
        except BadRecord as error:
            tally.num_bad += 1
            tally.faults.add(shard, key, error.reason, str(error))
            self._merged_names(tally, shard, key, members, named=set())
            return None
        sizes = [
            self._picture(tally, shard, key, name, data, self.decodes or decodes)
            for name, data in record.images.items()
        ]
        if None in sizes:
            tally.num_bad += 1
            return None
        try:
            row = token_row(record, self.tokenizer, self.layout)
        except BadRecord as error:  # the layout cannot take a picture
            tally.num_bad += 1
            tally.faults.add(shard, key, error.reason, str(error))
            return None
        named = {part.image for _, parts in turns_of(record) for part in parts if part.image is not None}
        self._merged_names(tally, shard, key, members, named if "json" in members else set())
        self._add(tally, shard, number, record, row, sizes)
        return record

    def _picture(
        self, tally: Tally, shard: Path, key: str, name: str, data: bytes, decodes: bool
    ) -> tuple[int, int, str] | None:
        """(width, height, format) as people see it; None, with a fault, for one that no encoder could be shown."""
        try:
            check_header(data)
            width, height = upright_size(data)
            if decodes:
                tally.num_decoded += 1
                decode(data)
        except BadRecord as error:
            tally.faults.add(shard, key, error.reason, f"record {key!r}, {name}: {error}")
            return None
        if min(width, height) < TINY_PX:
            message = f"record {key!r}, {name}: has {width} x {height} pixels"
            tally.warnings.add(shard, key, "tiny picture", message)
        return width, height, picture_format(data)

    def _add(
        self, tally: Tally, shard: Path, number: int, record: Sample | Question, row: Row, sizes: list[Any]
    ) -> None:
        turns = turns_of(record)
        keys = {name: picture_key(data) for name, data in record.images.items()}
        texts = [part.text for _, parts in turns for part in parts if part.text is not None]
        kind, slots = kind_of(record), int(row.is_image.sum())
        caption = " ".join(texts).strip() if kind == "caption" else None
        if caption is not None and sum(map(str.isalnum, caption[:1000])) < FEW_LETTERS:
            tally.warnings.add(shard, record.key, "near-empty caption", f"record {record.key!r} says {caption[:80]!r}")
        if len(row) > self.row_tokens:
            message = f"record {record.key!r} has {len(row):,} tokens, a row has {self.row_tokens:,}"
            tally.warnings.add(shard, record.key, "longer than a row", message)
        columns: dict[str, int] = {
            "number": number,
            "kind": KINDS.index(kind),
            "id": hash_of([("id", record.id)]),
            "content": hash_of(_content(turns, keys)),
            "caption": 0 if caption is None else hash_of([("caption", caption)]) or 1,
            "characters": min(sum(map(len, texts)), MOST),
            "text_tokens": len(row) - slots,
            "slots": slots,
            "answered": 0 if isinstance(record, Question) else int(row.loss.sum()),
            "turns": min(len(turns), 2**16 - 1),
            "pictures": min(len(sizes), 2**16 - 1),
        }
        for name, value in columns.items():
            tally.records[name].append(value)
        for name, (width, height, form) in zip(keys.values(), sizes, strict=True):
            tally.pictures["key"].append(int(name[:16], 16))
            tally.pictures["width"].append(width)
            tally.pictures["height"].append(height)
            tally.formats[form] += 1

    def _merged_names(self, tally: Tally, shard: Path, key: str, members: Mapping[str, bytes], named: set[str]) -> None:
        """Warn of names such as `img.01.jpg` and `img.02.jpg`: one record of the key `img`, where two were meant."""
        dotted = sorted(name for name in members if "." in name and is_read_at_all(name) and name not in named)
        if len(dotted) > 1 or any(name.rsplit(".", 1)[-1] in ("json", "txt") for name in dotted):
            names = " and ".join(f"{key}.{name}" for name in dotted[:2])
            message = f"record {key!r} holds {names}: an extension begins at the first dot; write {key}_{dotted[0]}"
            tally.warnings.add(shard, key, "names with several dots", message)


def is_read_at_all(extension: str) -> bool:
    """Whether the last part of an extension is one that readers know."""
    return extension.rsplit(".", 1)[-1] in ("json", "txt", *IMAGE_EXTENSIONS)


def kind_of(record: Sample | Question) -> str:
    """Which of KINDS a record is: a caption has one picture with its text on one side of it."""
    if isinstance(record, Question):
        return "question"
    if record.messages is not None:
        return "conversation"
    content = record.content or ()
    places = [place for place, part in enumerate(content) if part.image is not None]
    if not places:
        return "text only"
    return "caption" if len(places) == 1 and places[0] in (0, len(content) - 1) else "interleaved"


def picture_format(data: bytes) -> str:
    """By the first bytes, of a picture whose header was checked."""
    return "PNG" if data.startswith(b"\x89PNG") else "WebP" if data.startswith(b"RIFF") else "JPEG"


def hash_of(pieces: list[tuple[str, str]]) -> int:
    """8 bytes of a hash; of other pieces another, but by chance."""
    digest = hashlib.blake2b(repr(pieces).encode("utf-8"), digest_size=8)  # repr writes lone surrogates as ASCII
    return int.from_bytes(digest.digest(), "little")


def _content(turns: tuple[tuple[str | None, tuple[Part, ...]], ...], keys: Mapping[str, str]) -> list[tuple[str, str]]:
    pieces = []
    for role, parts in turns:
        pieces.append(("role", role or ""))
        pieces += [("text", one.text or "") if one.image is None else ("picture", keys[one.image]) for one in parts]
    return pieces


def _looks_like_a_question(data: bytes) -> bool:
    if not any(f'"{name}"'.encode() in data for name in SCORED_BY):
        return False
    try:
        fields = strict_json(data)
    except ValueError:
        return False
    return isinstance(fields, dict) and "content" in fields and not fields.keys().isdisjoint(SCORED_BY)


def _without_pictures(record: Sample | Question) -> Sample | Question:
    if isinstance(record, Question):
        return record.without_images()
    content, messages = record.content, record.messages
    if content is not None:
        content = tuple(part for part in content if part.text is not None)
    if messages is not None:
        messages = tuple(Message(one.role, tuple(p for p in one.parts if p.text is not None)) for one in messages)
    return replace(record, content=content, messages=messages, images={})


def _kind_of_member(extension: str) -> str:
    last = extension.rsplit(".", 1)[-1]
    return "pictures" if last in IMAGE_EXTENSIONS else extension if extension in ("json", "txt") else "ignored"
