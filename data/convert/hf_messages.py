"""Messages as transformers and TRL have them: `{"messages": [{"role", "content": text | parts}], "images": [...]}` in JSONL or parquet.

In: an image part `{"type": "image"}` stands for the next of `images`, or for the one that its `index` says, or holds its own picture
(`image`, `path` or `url`: a path). Marks in a text are text. Turns of tools are faults: this project has no such role.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.convert.json_file import find_files, json_items, read_id, read_object, size_of
from data.convert.parquet_rows import num_rows, parquet_items, pictures_of, require_columns, without_nulls
from data.convert.record import OTHER_FORMAT, Draft, Item, Wanted
from data.convert.settings import Settings
from data.sample import ROLES, BadRecord

SUFFIXES = (".jsonl", ".json", ".parquet")
TOOL_ROLES = ("tool", "function", "ipython")


class HfMessages:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        kinds = {path.suffix.lower() == ".parquet" for path in self.files()}
        if len(kinds) > 1:
            raise ValueError("hf-messages takes parquet files or JSONL files, not both at once")
        self._is_parquet = kinds == {True}

    def files(self) -> list[Path]:
        return find_files(self._settings.sources, SUFFIXES)

    def size(self) -> int:
        return num_rows(self.files()) if self._is_parquet else size_of(self.files())

    def items(self, whole: bool, wanted: Wanted) -> Iterator[Item]:
        if not self._is_parquet:
            return json_items(self.files(), self._settings.images)
        require_columns(self.files(), ("messages",))
        columns = ("id", "messages", "images", "image", "source") if whole else ("id",)
        return parquet_items(self.files(), columns, self._settings.images, wanted)

    def identify(self, item: Item) -> str | None:
        return read_id(item.payload) if self._is_parquet else self.draft(item).id

    def draft(self, item: Item) -> Draft:
        fields = without_nulls(item.payload) if self._is_parquet else read_object(item.payload)
        turns = fields.get("messages")
        if not isinstance(turns, list):
            raise BadRecord(f'has no list "messages" but {", ".join(fields) or "nothing"}', OTHER_FORMAT)
        given = fields.get("images", fields.get("image"))
        pictures = _Pictures(pictures_of(given))
        messages = [_message(turn, number, pictures) for number, turn in enumerate(turns)]
        pictures.check_all_used()
        rest = {"source": fields["source"]} if isinstance(fields.get("source"), str) else {}
        return Draft(read_id(fields), {"messages": messages, **rest}, tuple(pictures.all))


class _Pictures:
    """Gives each image part its picture."""

    def __init__(self, listed: tuple[str | bytes, ...]) -> None:
        self.all = list(listed)
        self._num_listed, self._next, self._used = len(listed), 0, set[int]()

    def place(self, part: dict[str, Any], where: str) -> int:
        for name in ("image", "path", "url"):
            if part.get(name) is not None:
                (own,) = pictures_of([part[name]])
                self.all.append(own)
                return len(self.all) - 1
        place = part.get("index", self._next)
        if type(place) is not int or not 0 <= place < self._num_listed:
            raise BadRecord(
                f"has a picture in {where} that is number {place!r:.20} of {self._num_listed} images",
                "marks and pictures differ",
            )
        self._next = place + 1
        self._used.add(place)
        return place

    def check_all_used(self) -> None:
        if unused := set(range(self._num_listed)) - self._used:
            raise BadRecord(
                f"has {self._num_listed} images, but no part for number {min(unused)}", "marks and pictures differ"
            )


def _message(turn: Any, number: int, pictures: _Pictures) -> dict[str, Any]:
    where = f"messages[{number}]"
    if not isinstance(turn, dict):
        raise BadRecord(f"needs an object as {where}, got {turn!r:.80}")
    role, content = turn.get("role"), turn.get("content")
    if role in TOOL_ROLES or turn.get("tool_calls"):
        raise BadRecord(f"has a turn of a tool as {where}; there are only {', '.join(ROLES)}", "turn of a tool")
    if role not in ROLES:
        raise BadRecord(f"needs a role ({', '.join(ROLES)}) in {where}, got {role!r:.80}", "unknown role")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise BadRecord(f"needs a text or a list of parts as {where}.content, got {content!r:.80}")
    return {"role": role, "content": [_part(part, f"{where}.content[{i}]", pictures) for i, part in enumerate(content)]}


def _part(part: Any, where: str, pictures: _Pictures) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        return {"type": "image", "image": pictures.place(part, where)}
    raise BadRecord(f"needs a part of type text or image as {where}, got {part!r:.80}", "unknown part")
