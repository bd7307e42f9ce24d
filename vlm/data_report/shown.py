"""One record as it is shown: what is stored, what was read of it, and its tokens.

In: a found record. Out: a `Shown`, for text, JSON and a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.doctor.find import Found
from data.doctor.record import kind_of, parse_record, picture_format, token_row, turns_of
from data.image import decode
from data.image_header import upright_size
from data.sample import BadRecord, Question, Sample, pictures_of
from vlm.data_report.layout import Reading
from vlm.data_report.tokens import Piece, pieces_of


@dataclass(frozen=True)
class StoredPicture:
    """A picture of the record."""

    name: str
    num_bytes: int
    format: str | None
    width: int | None  # as people see it
    height: int | None
    fault: str | None


@dataclass(frozen=True)
class Tokens:
    """The record as a run would see it."""

    pieces: tuple[Piece, ...]
    count: int
    slots: int
    answered: int  # tokens with loss
    pictures_counted: bool  # False where no encoder says how many slots a picture takes


@dataclass(frozen=True)
class Shown:
    """Everything about one record."""

    found: Found
    record: Sample | Question | None  # None where it is bad
    pictures: tuple[StoredPicture, ...]
    tokens: Tokens | None
    faults: tuple[str, ...]


def read_shown(found: Found, reading: Reading | None, as_questions: bool = False) -> Shown:
    """Read a record as training does.

    Args:
        reading: for whom tokens are counted; None counts none.
    """
    faults: list[str] = []
    record, tokens = None, None
    try:
        record = parse_record(found.key, found.members, as_questions)
    except BadRecord as error:
        faults.append(str(error))
    pictures = tuple(_picture(name, data) for name, data in pictures_of(found.members).items())
    faults += [f"{one.name}: {one.fault}" for one in pictures if one.fault is not None]
    if record is not None and reading is not None and not faults:
        try:
            row = token_row(record, reading.tokenizer, reading.layout)
            pieces = tuple(pieces_of(row, record, reading.tokenizer))
            counted = reading.layout is not None or not record.images
            tokens = Tokens(pieces, len(row), int(row.is_image.sum()), int(row.loss.sum()), counted)
        except BadRecord as error:
            faults.append(str(error))
    return Shown(found, record, pictures, tokens, tuple(faults))


def _picture(name: str, data: bytes) -> StoredPicture:
    try:
        width, height = upright_size(data)
        decode(data)
    except BadRecord as error:
        return StoredPicture(name, len(data), None, None, None, str(error))
    return StoredPicture(name, len(data), picture_format(data), width, height, None)


def as_dict(shown: Shown) -> dict[str, Any]:
    """For JSON."""
    found, record, tokens = shown.found, shown.record, shown.tokens
    told: dict[str, Any] = {
        "shard": str(found.shard),
        "key": found.key,
        "number": found.number,
        "members": found.sizes,
        "faults": list(shown.faults),
        "shard_faults": dict(found.shard_faults.counts),
        "pictures": [vars(picture) for picture in shown.pictures],
    }
    if record is not None:
        told |= {"id": record.id, "kind": kind_of(record), "turns": _turns(record)}
    if isinstance(record, Question):
        names = ("answers", "choices", "answer", "category", "group", "box", "meta")
        told["question"] = {name: getattr(record, name) for name in names}
    if tokens is not None:
        told["tokens"] = {
            "count": tokens.count,
            "slots": tokens.slots,
            "answered": tokens.answered,
            "pictures_counted": tokens.pictures_counted,
            "pieces": [vars(piece) for piece in tokens.pieces],
        }
    return told


def _turns(record: Sample | Question) -> Sequence[dict[str, Any]]:
    return [
        {
            "role": role,
            "content": [
                {"type": "text", "text": part.text} if part.image is None else {"type": "image", "image": part.image}
                for part in parts
            ],
        }
        for role, parts in turns_of(record)
    ]
