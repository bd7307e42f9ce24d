"""The formats that can be converted, by name; and what a source looks like when the name was wrong.

A format is never guessed: one record in another dialect would otherwise be read as something that it is not. The guess made here goes
into an error message and nowhere else.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from data.convert.coco import Coco
from data.convert.hf_messages import HfMessages
from data.convert.json_file import line_texts, list_texts
from data.convert.jsonl import Jsonl
from data.convert.llava import Llava
from data.convert.parquet import Parquet
from data.convert.parquet_rows import columns_of
from data.convert.pictures import SUFFIXES, Pictures
from data.convert.record import Format
from data.convert.settings import Settings
from data.convert.text import Text
from data.sample import BadRecord

FORMATS: dict[str, Callable[[Settings], Format]] = {
    "pictures": Pictures,
    "jsonl": Jsonl,
    "llava": Llava,
    "hf-messages": HfMessages,
    "parquet": Parquet,
    "coco": Coco,
    "text": Text,
}
# Settings that mean something to some formats only.
_TAKERS = {
    "images": ("jsonl", "llava", "hf-messages", "parquet", "coco"),
    "captions": ("pictures",),
    "skip_uncaptioned": ("pictures", "coco"),
    "together": ("coco",),
    "ask": ("pictures", "coco"),
    "benchmark": ("pictures", "coco"),
}
SHARDS = ("img2dataset", "webdataset", "shards", "tar")
READ_AS_THEY_ARE = (
    "tars as img2dataset and webdataset write them (KEY.jpg with KEY.txt or KEY.json) are read as they are and need no conversion; "
    "name their folder in data.train"
)


def open_format(name: str, settings: Settings) -> Format:
    """The source in a format.

    Raises:
        ValueError: there is no such format, or a setting means nothing to it.
    """
    if name in SHARDS:
        raise ValueError(f"--from {name}: {READ_AS_THEY_ARE}")
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; known formats: {', '.join(FORMATS)}")
    for field in fields_of(settings):
        takers = _TAKERS.get(field.name, tuple(FORMATS))
        if getattr(settings, field.name) not in (None, False) and name not in takers:
            option = f"--{field.name.replace('_', '-')}"
            raise ValueError(f"{option} means nothing to --from {name}; it is for {', '.join(takers)}")
    return FORMATS[name](settings)


def hint(name: str, sources: Iterable[Path]) -> str:
    """What the source looks like, for an error message; empty if that is what it was called, or nothing that is known."""
    source = next(iter(sources))
    try:
        found = looks_like(source)
    except (ValueError, OSError):
        return ""
    if found == "shards":
        return f"; {source} looks like shards: {READ_AS_THEY_ARE}"
    return f"; {source} looks like --from {found}" if found not in (None, name) else ""


def looks_like(source: Path) -> str | None:
    """The format that the first record seems to have."""
    if source.is_dir():
        names = sorted(path for path in source.rglob("*") if path.is_file())
        for suffix in (".tar", ".parquet", ".jsonl", ".json"):
            if found := [path for path in names if path.suffix.lower() == suffix]:
                return looks_like(found[0])
        if any(path.suffix.lower() in SUFFIXES for path in names):
            return "pictures"
        return "text" if any(path.suffix == ".txt" for path in names) else None
    with source.open("rb") as file:
        begins = file.read(512)
    if source.suffix == ".tar" or begins[257:262] == b"ustar":
        return "shards"
    if begins[:4] == b"PAR1":
        return _dialect(dict.fromkeys(columns_of(source)))
    texts = list_texts(source) if begins.lstrip()[:1] == b"[" else line_texts(source)
    _, first, _ = next(iter(texts))
    if isinstance(first, BadRecord):
        return None
    try:
        fields = json.loads(first)
    except ValueError:
        with source.open("rb") as file:
            start = file.read(2**16)
        return "coco" if start.lstrip()[:1] == b"{" and b'"images"' in start else None
    return _dialect(fields) if isinstance(fields, dict) else None


def _dialect(fields: dict[str, Any]) -> str | None:
    if "conversations" in fields:
        return "llava"
    if "images" in fields and "annotations" in fields:
        return "coco"
    if "texts" in fields:
        return "parquet"
    if "messages" in fields:
        own = '"image": "' in json.dumps(fields["messages"]) and "images" not in fields
        return "jsonl" if own else "hf-messages"
    return next((name for key, name in (("content", "jsonl"), ("text", "text")) if key in fields), None)
