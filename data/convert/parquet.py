"""Parquet as the_cauldron and FineVision have it: `images` (`{bytes, path}` each) and `texts` (`{user, assistant}` each).

Out: one conversation of a row with all its turns, the pictures first. `id` and `source` are kept where a row has them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.convert.json_file import find_files, read_id
from data.convert.parquet_rows import num_rows, parquet_items, pictures_of, require_columns
from data.convert.record import Draft, Item, Wanted
from data.convert.settings import Settings
from data.sample import BadRecord

SUFFIXES = (".parquet",)
COLUMNS = ("id", "images", "texts", "source")


class Parquet:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def files(self) -> list[Path]:
        return find_files(self._settings.sources, SUFFIXES)

    def size(self) -> int:
        return num_rows(self.files())

    def items(self, whole: bool, wanted: Wanted) -> Iterator[Item]:
        require_columns(self.files(), ("images", "texts"))
        columns = COLUMNS if whole else ("id",)
        return parquet_items(self.files(), columns, self._settings.images, wanted)

    def identify(self, item: Item) -> str | None:
        return read_id(item.payload)

    def draft(self, item: Item) -> Draft:
        row = item.payload
        pictures = pictures_of(row.get("images"))
        texts = row.get("texts")
        if not isinstance(texts, list) or not texts:
            raise BadRecord("has no texts")
        content: list[dict[str, Any]] = [{"type": "image", "image": place} for place in range(len(pictures))]
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(texts):
            user, assistant = (turn.get("user"), turn.get("assistant")) if isinstance(turn, dict) else (None, None)
            if not isinstance(user, str) or not isinstance(assistant, str):
                raise BadRecord(f"needs texts as user and assistant in texts[{number}], got {turn!r:.80}")
            question = (
                [*content, *([{"type": "text", "text": user}] if user else [])] if number == 0 and content else user
            )
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": assistant}]
        source = row.get("source") or texts[0].get("source")
        rest = {"source": source} if isinstance(source, str) else {}
        return Draft(read_id(row), {"messages": messages, **rest}, pictures)
