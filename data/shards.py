"""Indexed tar shards: checked when opened, read by position, written the same way every time.

In: plain tar files in webdataset's layout (`KEY.EXT` members, the members of a key side by side). Out: (key, members).
Unlike a stream of tar members, a shard that is cut short, holds a key twice or mixes keys is an error before training
starts: a stream ends early, or makes half records, without a word. Members are only ever read into memory.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from braceexpand import braceexpand

from data.sample import strict_json
from data.tar import BLOCK, BadShard, TarIndex, scan, write_member

MAX_OPEN_FILES = 128
MANIFEST = "dataset.json"

_scanned: dict[tuple[str, int, int], TarIndex] = {}
_open_files: OrderedDict[tuple[str, int, int], int] = OrderedDict()


class Shard:
    """One tar file, scanned once and then read by position.

    Raises:
        BadShard: the file is missing, cut short, compressed, or holds members that cannot be trusted.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            stat = self.path.stat()
        except OSError as error:
            raise BadShard(f"shard {self.path}: {error.strerror}; check the path in the data's sources") from None
        self.identity = (str(self.path.resolve()), stat.st_size, stat.st_mtime_ns)
        if self.identity not in _scanned:
            _scanned[self.identity] = scan(self.path)
        self._index = _scanned[self.identity]

    def __len__(self) -> int:
        return len(self._index.keys)

    def key(self, i: int) -> str:
        return self._index.keys[i]

    def read(self, i: int) -> tuple[str, dict[str, bytes]]:
        """The key and the members (extension -> bytes) of record `i`."""
        file = _open(self.identity, self.path)
        members = {name: os.pread(file, size, offset) for name, offset, size in self._index.members[i]}
        return self._index.keys[i], members

    def fingerprint(self) -> str:
        return f"{self.identity[1]}-{self._index.fingerprint()}"


class ShardSet:
    """Shards one after another, as one sequence of records."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = tuple(shards)
        self._ends = [0]
        for shard in self.shards:
            self._ends.append(self._ends[-1] + len(shard))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, i: int) -> tuple[Shard, int]:
        """The shard that holds record `i`, and its number there."""
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        number = bisect_right(self._ends, i) - 1
        return self.shards[number], i - self._ends[number]

    def read(self, i: int) -> tuple[str, dict[str, bytes]]:
        shard, position = self.locate(i)
        return shard.read(position)

    def fingerprint(self) -> str:
        """Changes when a record is added, removed, moved or resized; does not depend on where the files lie."""
        return hashlib.blake2b("/".join(s.fingerprint() for s in self.shards).encode(), digest_size=16).hexdigest()


def open_shards(source: str | Path) -> ShardSet:
    """Open a `.tar`, a folder (its `dataset.json`, else all its `*.tar`), a `dataset.json` or a pattern `{00..07}.tar`.

    Raises:
        BadShard: names the file that is missing or wrong.
    """
    text = str(source)
    if "://" in text or text.startswith("pipe:"):
        raise BadShard(f"source {text}: only local files are read; copy the shards and give their path")
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _from_manifest(path / MANIFEST)
        found = sorted(path.glob("*.tar"))
        if not found:
            raise BadShard(f"folder {path}: holds no .tar and no {MANIFEST}; give the folder that holds the shards")
        return ShardSet([Shard(file) for file in found])
    if path.name.endswith(".json"):
        return _from_manifest(path)
    if "{" in text and not path.exists():
        try:
            paths = list(braceexpand(str(path)))
        except ValueError as error:
            raise BadShard(f"pattern {text}: {error}; write it like shard-{{000..007}}.tar") from None
        return ShardSet([Shard(file) for file in paths])
    return ShardSet([Shard(path)])


def write_shard(path: str | Path, records: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write records as a plain USTAR tar; the same records give the same bytes. Appears under its name when complete.

    Raises:
        ValueError: a key or an extension that a reader would refuse or split in another way.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    seen: set[str] = set()
    try:
        with part.open("wb") as file:
            for key, members in records:
                if key in seen:
                    raise ValueError(f"key {key!r} comes twice; a key names one record of a shard")
                if not members:
                    raise ValueError(f"key {key!r} has no members; give at least a json or a txt")
                seen.add(key)
                for extension, data in sorted(members.items()):
                    write_member(file, key, extension, data)
            file.write(bytes(2 * BLOCK))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_manifest(folder: str | Path) -> None:
    """Write the folder's `dataset.json`: its `*.tar` with bytes, samples and sha256."""
    folder = Path(folder)
    shards: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shards.append({"path": path.name, "bytes": path.stat().st_size, "samples": len(Shard(path)), "sha256": digest})
    manifest = {"shards": shards, "samples": sum(shard["samples"] for shard in shards)}
    part = folder / f".{MANIFEST}.{os.getpid()}.part"
    part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / MANIFEST)


def _from_manifest(path: Path) -> ShardSet:
    try:
        manifest = strict_json(path.read_bytes())
        entries = [(str(entry["path"]), entry["bytes"], entry["samples"]) for entry in manifest["shards"]]
    except OSError as error:
        raise BadShard(f"manifest {path}: {error.strerror}; check the path in the data's sources") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadShard(f"manifest {path}: cannot be read ({error!r}); write it again with write_manifest") from None
    shards = []
    for name, num_bytes, samples in entries:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BadShard(f"manifest {path}: shard {name!r} lies outside the folder; shards lie beside their manifest")
        shard = Shard(path.parent / name)
        size = shard.path.stat().st_size
        if (size, len(shard)) != (num_bytes, samples):
            raise BadShard(
                f"shard {shard.path}: has {size:,} bytes and {len(shard)} records, {path.name} says {num_bytes:,} and "
                f"{samples}; fetch the shard again, or write the manifest again if the shard is right"
            )
        shards.append(shard)
    return ShardSet(shards)


def _open(identity: tuple[str, int, int], path: Path) -> int:
    """A file descriptor, opened in the process that reads and kept among the last `MAX_OPEN_FILES`."""
    if identity in _open_files:
        _open_files.move_to_end(identity)
        return _open_files[identity]
    file = os.open(identity[0], os.O_RDONLY | os.O_CLOEXEC)
    stat = os.fstat(file)
    if (stat.st_size, stat.st_mtime_ns) != identity[1:]:
        os.close(file)
        raise BadShard(f"shard {path}: changed after it was opened; start again, and leave the file alone meanwhile")
    _open_files[identity] = file
    if len(_open_files) > MAX_OPEN_FILES:
        os.close(_open_files.popitem(last=False)[1])
    return file
