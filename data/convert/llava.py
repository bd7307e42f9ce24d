"""LLaVA's instructions: a JSON list, or JSONL, of `{"id", "image", "conversations": [{"from": "human", "value": "<image>\\n..."}]}`.

In: `image` is a path, a list of paths, or absent. Out: conversations with the pictures where the marks `<image>` stand. There must be as
many marks as pictures. The line break between a mark and the text is part of the notation, and goes with it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.convert.json_file import find_files, json_items, read_id, read_object, size_of
from data.convert.record import OTHER_FORMAT, Draft, Item, Wanted
from data.convert.settings import Settings
from data.sample import BadRecord

SUFFIXES = (".json", ".jsonl")
MARK = "<image>"
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


class Llava:
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
        turns = fields.get("conversations")
        if not isinstance(turns, list):
            raise BadRecord(f'has no list "conversations" but {", ".join(fields) or "nothing"}', OTHER_FORMAT)
        pictures = _pictures(fields.get("image"))
        messages: list[dict[str, Any]] = []
        marks = 0
        for number, turn in enumerate(turns):
            said, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
            if said not in ROLES:
                raise BadRecord(
                    f"needs from: {', '.join(ROLES)} in conversations[{number}], got {said!r:.80}", "unknown role"
                )
            if not isinstance(text, str):
                raise BadRecord(f"needs a text as conversations[{number}].value, got {text!r:.80}")
            messages.append({"role": ROLES[said], "content": parts_of(text, marks)})
            marks += text.count(MARK)
        if marks != len(pictures):
            raise BadRecord(
                f"has {marks} marks {MARK} and {len(pictures)} pictures; each picture needs one",
                "marks and pictures differ",
            )
        return Draft(read_id(fields), {"messages": messages}, pictures)


def parts_of(text: str, first: int) -> str | list[dict[str, Any]]:
    """A turn as parts.

    Args:
        first: the place of the first picture among those of the record.
    """
    before, *behind = text.split(MARK)
    if not behind:
        return text
    pieces = [before.rstrip("\n"), *(piece.strip("\n") for piece in behind[:-1]), behind[-1].lstrip("\n")]
    parts: list[dict[str, Any]] = [{"type": "text", "text": pieces[0]}]
    for place, piece in enumerate(pieces[1:], start=first):
        parts += [{"type": "image", "image": place}, {"type": "text", "text": piece}]
    return [part for part in parts if part.get("text") != ""]


def _pictures(value: object) -> tuple[str, ...]:
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise BadRecord(f"needs a path or a list of paths as image, got {value!r:.80}")
    return tuple(names)
