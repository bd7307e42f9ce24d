"""Plain documents: the column `text` of parquet or JSONL, as FineWeb-Edu has it, or `.txt` files.

Out: a document for each row, line or file. `id` and `source` are kept where there are any; a file's id is its name.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from data.convert.json_file import find_files, json_items, read_id, read_object, size_of
from data.convert.parquet_rows import num_rows, parquet_items, require_columns
from data.convert.picture_file import read_file
from data.convert.record import OTHER_FORMAT, Draft, Item, Wanted
from data.convert.settings import Settings
from data.sample import BadRecord

SUFFIXES = (".jsonl", ".parquet", ".txt")


class Text:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        kinds = {path.suffix.lower() for path in self.files()}
        if len(kinds) > 1 or not kinds <= set(SUFFIXES):
            raise ValueError(f"text takes files of one kind of {', '.join(SUFFIXES)}, got {', '.join(sorted(kinds))}")
        (self._kind,) = kinds

    def files(self) -> list[Path]:
        return find_files(self._settings.sources, SUFFIXES)

    def size(self) -> int:
        return num_rows(self.files()) if self._kind == ".parquet" else size_of(self.files())

    def items(self, whole: bool, wanted: Wanted) -> Iterator[Item]:
        files = self.files()
        if self._kind == ".jsonl":
            return json_items(files, None)
        if self._kind == ".parquet":
            require_columns(files, ("text",))
            columns = ("id", "text", "source") if whole else ("id",)
            return parquet_items(files, columns, None, wanted)
        return self._txt_items(files)

    def _txt_items(self, files: list[Path]) -> Iterator[Item]:
        # One folder above all of them, so that names differ.
        root = Path(os.path.commonpath([one if one.is_dir() else one.parent for one in self._settings.sources]))
        position = 0
        for number, file in enumerate(files):
            position += file.stat().st_size
            yield Item(number, str(file), file.relative_to(root).as_posix(), root, position)

    def identify(self, item: Item) -> str | None:
        return read_id(item.payload) if self._kind == ".parquet" else self.draft(item).id

    def draft(self, item: Item) -> Draft:
        if self._kind == ".txt":
            data = read_file(item.root, item.payload, "text", "missing text")
            try:
                text: object = data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise BadRecord(f"is not UTF-8 (byte {error.start})", "bad text") from None
            name, rest = item.payload, {}
        else:
            fields = read_object(item.payload) if self._kind == ".jsonl" else item.payload
            if "text" not in fields and self._kind == ".jsonl":
                raise BadRecord(f'has no "text" but {", ".join(fields) or "nothing"}', OTHER_FORMAT)
            text, name = fields.get("text"), read_id(fields)
            rest = {"source": fields["source"]} if isinstance(fields.get("source"), str) else {}
        if not isinstance(text, str):
            raise BadRecord(f"needs a text, got {text!r:.80}")
        return Draft(name, {"content": text, **rest}, ())
