"""A benchmark's questions to shards: the same release gives the same bytes, all of them or none.

In: `Item`s. Out: FOLDER/shard-000.tar, .. with `dataset.json` and `prepared.json`. Ids are the release's. A record cannot hold
one choice twice, and some releases do; the second gets a blank at its end, so that no question is lost.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.sample import BadRecord, parse_question
from data.shards import write_manifest, write_shard
from eval.prepare.release import Release

SHARD_BYTES, SHARD_RECORDS = 256 * 2**20, 1000
NOTE = "prepared.json"
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}
Progress = Callable[[int], None]  # told after each question: how many there are


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question of a release."""

    id: str
    content: tuple[str | bytes, ...]  # texts and pictures (as stored) in reading order
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer: int | None = None
    category: str | None = None
    group: str | None = None
    box: tuple[float, float, float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What was written."""

    folder: Path
    questions: int
    pictures: int
    repeated_choices: int  # questions whose choices were told apart by a blank
    redrawn: int  # pictures that were neither JPEG, PNG nor WebP, and are PNG now
    expected: int | None = None  # questions of the published split, where it is known


def prepare(task: str, release: Path, benchmarks: Path, progress: Progress | None = None) -> Prepared:
    """Write BENCHMARKS/TASK from a release.

    Raises:
        ValueError: no converter of this name, not this benchmark's release, a bad question in it, or the folder exists.
    """
    first, _, part = task.partition("/")
    module = f"eval.prepare.{first.replace('-', '_')}"
    if not first.replace("-", "_").isidentifier() or find_spec(module) is None:
        raise ValueError(f"task {task!r} has no converter {module}")
    converter = import_module(module)
    items = _of_release(task, converter.read(Release(release, converter.NEEDS), part), converter.NEEDS)
    done = write_benchmark(benchmarks / task, task, items, progress)
    return replace(done, expected=getattr(converter, "COUNTS", {}).get(part))


def _of_release(task: str, items: Iterable[Item], needs: str) -> Iterator[Item]:
    """The items; fields of other kinds than a converter reads become an error for people."""
    try:
        yield from items
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"task {task}: a file of the release is not of the form that is read ({type(error).__name__}: {error}); needed: {needs}"
        ) from error


def write_benchmark(folder: Path, task: str, items: Iterable[Item], progress: Progress | None = None) -> Prepared:
    """Write questions as a benchmark; the folder appears when it is complete.

    Raises:
        ValueError: the folder has something in it, two questions have one id, or a question cannot be one.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists; take it away to prepare {task} again")
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        counts = {"questions": 0, "pictures": 0, "repeated_choices": 0, "redrawn": 0}
        seen: dict[str, int] = {}
        digest = hashlib.sha256()
        records = iter(_records(task, items, seen, counts, digest, progress))
        number = 0
        for first in records:
            write_shard(new / f"shard-{number:03d}.tar", _shard(first, records))
            number += 1
        if not number:
            raise ValueError(f"the release holds no question for task {task}")
        write_manifest(new)
        note = {"task": task, **counts, "sha256_of_records": digest.hexdigest()}
        (new / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        new.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        with suppress(OSError):  # another benchmark may lie there by now
            for parent in made:
                parent.rmdir()
        raise
    return Prepared(folder, **counts)


Record = tuple[str, dict[str, bytes]]


def _records(
    task: str,
    items: Iterable[Item],
    seen: dict[str, int],
    counts: dict[str, int],
    digest: "hashlib._Hash",
    progress: Progress | None,
) -> Iterator[Record]:
    for number, item in enumerate(items):
        if item.id in seen:
            raise ValueError(f"task {task}: questions {seen[item.id]} and {number} both have the id {item.id!r}")
        seen[item.id] = number
        key = f"{number:06d}"
        members = _members(task, item, counts)
        try:
            parse_question(key, members)
        except BadRecord as error:
            raise ValueError(f"task {task}: question {item.id!r} cannot be one: {error}") from error
        for name, data in sorted(members.items()):
            digest.update(f"{key}.{name} {len(data)}\0".encode() + data)
        counts["questions"] += 1
        if progress is not None:
            progress(counts["questions"])
        yield key, members


def _members(task: str, item: Item, counts: dict[str, int]) -> dict[str, bytes]:
    content: list[dict[str, str]] = []
    members: dict[str, bytes] = {}
    for part in item.content:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
            continue
        data, kind = _as_readable(part, f"task {task}: question {item.id!r}", counts)
        name = f"{len(members)}.{kind}"
        members[name] = data
        content.append({"type": "image", "image": name})
    counts["pictures"] += len(members)
    fields: dict[str, Any] = {
        "id": item.id,
        "content": content,
        "answers": list(item.answers) or None,
        "choices": _told_apart(item.choices) or None,
        "answer": item.answer,
        "category": item.category,
        "group": item.group,
        "box": None if item.box is None else list(item.box),
        "meta": dict(item.meta) or None,
    }
    counts["repeated_choices"] += len(set(item.choices)) < len(item.choices)
    kept = {name: value for name, value in fields.items() if value is not None}
    return members | {"json": json.dumps(kept, ensure_ascii=False, sort_keys=False, allow_nan=False).encode()}


def _told_apart(choices: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for choice in choices:
        while choice in found:
            choice += " "
        found.append(choice)
    return found


def _as_readable(data: bytes, where: str, counts: dict[str, int]) -> tuple[bytes, str]:
    """The picture as stored with its extension; a kind that records do not hold (GIF, BMP) becomes PNG."""
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return data, kind
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            file = io.BytesIO()
            picture.convert("RGBA" if "transparency" in picture.info else "RGB").save(file, "PNG")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: a picture cannot be read: {error}; fetch the release again") from error
    counts["redrawn"] += 1
    return file.getvalue(), "png"


def _shard(first: Record, records: Iterator[Record]) -> Iterator[Record]:
    """Records up to the size of a shard."""
    size, number = 0, 0
    record: Record | None = first
    while record is not None:
        yield record
        size, number = size + sum(map(len, record[1].values())), number + 1
        if size >= SHARD_BYTES or number >= SHARD_RECORDS:
            return
        record = next(records, None)
