"""Find one record by its key or its number, also in a shard that training would refuse."""

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.doctor.flaws import Flaws
from data.doctor.places import find_shards
from data.doctor.record import is_read_at_all
from data.doctor.walk import Span, walk

MOST_KEYS = 50_000  # among which near ones are looked for


@dataclass(frozen=True)
class Found:
    """A record as it lies in its shard."""

    shard: Path
    number: int  # of the record among all of the paths, from 0
    key: str
    sizes: dict[str, int]  # bytes of each member, by extension
    members: dict[str, bytes]  # those that a reader looks at
    shard_faults: Flaws  # met on the way to it


def find_record(source: str | Path, wanted: str) -> Found:
    """The record of that key; where there is none, and it is a number, the record of that number.

    Args:
        source: a tar, or several as `find_shards` takes them.

    Raises:
        ValueError: there is none; names keys that are near.
    """
    flaws = Flaws()
    places = [place.path for place in find_shards([source], flaws, Flaws())]
    number, keys, numbered = -1, list[str](), None
    for number, (path, span) in enumerate(_all_spans(places, flaws)):
        if span.key == wanted:
            return _read(path, number, span, flaws)
        if wanted.isascii() and wanted.isdigit() and number == int(wanted[:18]):
            numbered = path, number, span
        if len(keys) < MOST_KEYS:
            keys.append(span.key)
    if numbered is not None:
        return _read(*numbered, flaws)
    if not keys:
        why = "; ".join(flaw.message for named in flaws.named.values() for flaw in named[:1]) or "it has none"
        raise ValueError(f"{source}: no record can be found there: {why}")
    near = (
        difflib.get_close_matches(wanted, keys, n=3, cutoff=0.5)
        or [key for key in keys if wanted in key][:3]
        or keys[:3]
    )
    raise ValueError(
        f"{source}: none of its {number + 1:,} records has the key {wanted!r}; near: "
        f"{', '.join(map(repr, near))}; or give a number from 0 to {number:,}"
    )


def _all_spans(places: Sequence[Path], flaws: Flaws) -> Iterator[tuple[Path, Span]]:
    for path in places:
        try:
            if not path.is_file():  # to open a pipe would wait for ever
                raise ValueError(f"shard {path}: is no file, or is not there; give a tar")
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                for span in walk(
                    file.fileno(), size, 0, lambda *fault, path=path: flaws.add(path, *fault), lambda name: None
                ):
                    yield path, span
        except OSError as error:
            raise ValueError(f"shard {path}: {error.strerror}") from None


def _read(path: Path, number: int, span: Span, flaws: Flaws) -> Found:
    with path.open("rb", buffering=0) as file:
        members = {
            name: os.pread(file.fileno(), size, offset) for name, offset, size in span.members if is_read_at_all(name)
        }
    return Found(path, number, span.key, {name: size for name, _, size in span.members}, members, flaws)
