"""Records to be shown: their texts, cut where they are long, and small copies of their pictures."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from data.doctor.record import kind_of, picture_format, turns_of
from data.image import decode
from data.sample import Question, Sample

THUMB_PX, QUALITY = 256, 72  # a small copy has 5 to 10 kB
MOST_CHARACTERS, MOST_PARTS = 600, 24


@dataclass(frozen=True)
class PictureView:
    """A picture of a record."""

    name: str
    width: int
    height: int
    format: str
    num_bytes: int
    webp: bytes  # a small copy


@dataclass(frozen=True)
class PartView:
    """A text, or the number of a picture in the record's pictures."""

    role: str | None
    text: str | None = None
    picture: int | None = None


@dataclass(frozen=True)
class RecordView:
    """What stands on a page of one record."""

    shard: str
    key: str
    id: str
    kind: str
    parts: tuple[PartView, ...]
    pictures: tuple[PictureView, ...]
    truth: str | None  # of a question
    is_cut: bool  # True where a text or the list of parts goes on


def view_record(shard: str, record: Sample | Question, most_characters: int = MOST_CHARACTERS) -> RecordView:
    """A record for a page; its pictures must be sound.

    Args:
        most_characters: of one text.
    """
    named = [(role, part) for role, parts in turns_of(record) for part in parts]
    is_cut = len(named) > MOST_PARTS
    parts, pictures, numbers = list[PartView](), list[PictureView](), dict[str, int]()
    for role, part in named[:MOST_PARTS]:
        if part.text is not None:
            is_cut |= len(part.text) > most_characters
            parts.append(PartView(role, text=part.text[:most_characters]))
        elif part.image is not None:
            if part.image not in numbers:
                numbers[part.image] = len(pictures)
                pictures.append(view_picture(part.image, record.images))
            parts.append(PartView(role, picture=numbers[part.image]))
    truth = record.truth if isinstance(record, Question) and (record.answers or record.choices) else None
    kind = kind_of(record)
    return RecordView(shard, record.key, record.id, kind, tuple(parts), tuple(pictures), truth, is_cut)


def view_picture(name: str, images: Mapping[str, bytes]) -> PictureView:
    """A picture and its small copy.

    Raises:
        BadRecord: it cannot be decoded.
    """
    data = images[name]
    picture = decode(data)
    width, height = picture.size
    picture.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY)
    return PictureView(name, width, height, picture_format(data), len(data), file.getvalue())
