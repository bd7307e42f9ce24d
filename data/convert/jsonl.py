"""JSONL in the project's own record format, with pictures as files: `{"id": ..., "content": [{"type": "image", "image": "cat.jpg"}, ...]}`.

In: lines with `content` or `messages` (README.md), or questions with `answers`, `choices`, `box`. Every field is kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.convert.json_file import find_files, json_items, read_id, read_object, size_of
from data.convert.record import OTHER_FORMAT, Draft, Item, Wanted
from data.convert.settings import Settings
from data.sample import BadRecord

SUFFIXES = (".jsonl",)


class Jsonl:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def files(self) -> list[Path]:
        return find_files(self._settings.sources, SUFFIXES)

    def size(self) -> int:
        return size_of(self.files())

    def items(self, whole: bool, wanted: Wanted) -> Iterator[Item]:
        return json_items(self.files(), self._settings.images)

    def identify(self, item: Item) -> str | None:
        return self.draft(item).id

    def draft(self, item: Item) -> Draft:
        fields = read_object(item.payload)
        if "content" not in fields and "messages" not in fields:
            raise BadRecord(f'has neither "content" nor "messages" but {", ".join(fields) or "nothing"}', OTHER_FORMAT)
        pictures: dict[str, int] = {}
        rest = {name: value for name, value in fields.items() if name != "id"}
        for name in ("content", "messages"):
            if name in rest:
                rest[name] = _with_places(rest[name], pictures)
        return Draft(read_id(fields), rest, tuple(pictures))


def _with_places(value: Any, pictures: dict[str, int]) -> Any:
    """Parts, or turns of parts, in which a picture's name is its place among the pictures; a name again is the same picture."""
    if not isinstance(value, list):
        return value
    return [_with_place(part, pictures) if isinstance(part, dict) else part for part in value]


def _with_place(part: dict[str, Any], pictures: dict[str, int]) -> dict[str, Any]:
    if part.get("type") == "image":
        name = part.get("image")
        if not isinstance(name, str):
            raise BadRecord(f'needs the path of a picture in {{"type": "image", "image": ...}}, got {name!r:.80}')
        return part | {"image": pictures.setdefault(name, len(pictures))}
    return part | {"content": _with_places(part["content"], pictures)} if "content" in part else part
