"""Indexed tar shards: checked when opened, read by position, written the same way every time.

In: plain tar files in webdataset's layout (`KEY.EXT` members, the members of a key side by side), here or behind a URL.
Out: (key, members). Unlike a stream of tar members, a shard that is cut short, holds a key twice or mixes keys is an error
before training starts: a stream ends early, or makes half records, without a word. Members are only ever read into memory,
as bytes: nothing is unpacked, and no member is ever run.
"""

import functools
import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from data.manifest import MANIFEST, Entry, verify_manifest, write_manifest
from data.remote import is_url, public_url
from data.shard_cache import CachedFile, cache_folder, cache_limit, cached_file
from data.shard_file import ShardFile, Stamp
from data.shard_index import index_files, load_index, read_index
from data.shard_sources import find_shards
from data.tar import BLOCK, BadShard, TarIndex, write_member

__all__ = [
    "MANIFEST",
    "BadShard",
    "Shard",
    "ShardSet",
    "open_shards",
    "verify_manifest",
    "write_manifest",
    "write_shard",
]

FETCHES = 8  # remote shards fetched at once when a data set is opened

_loaded: WeakValueDictionary[tuple[str, int, int], TarIndex] = WeakValueDictionary()


class Shard:
    """One tar file, indexed once and then read by position.

    Args:
        path: of the tar; for a remote one that of its copy, which may be gone at times.
        cached: the remote file behind it.

    Raises:
        BadShard: the file is missing, cut short, compressed, or holds members that cannot be trusted.
    """

    def __init__(self, path: str | Path, cached: CachedFile | None = None) -> None:
        self.path = Path(path)
        self.name = cached.name if cached else str(path)
        try:
            if cached is None:
                stat, place = self.path.stat(), self.path.resolve()
                stamp = Stamp(stat.st_size, stat.st_mtime_ns)
                self.identity = (str(place), *stamp)
                open_file: Callable[[], int] = functools.partial(os.open, place, os.O_RDONLY | os.O_CLOEXEC)
            else:
                self.identity, stamp, open_file = cached.identity, cached.stamp, cached.open
            index = _loaded.get(self.identity)
            if index is None:
                index = load_index(self.path, *stamp) if cached is None else _index_of_cached(cached)
            _loaded[self.identity] = self._index = index
        except (OSError, ValueError) as error:
            if isinstance(error, BadShard):
                raise
            hint = "; variables such as $HOME are not expanded" if "$" in self.name else ""
            fault = getattr(error, "strerror", None) or error
            raise BadShard(f"shard {self.name}: {fault}; check the path in the data's sources{hint}") from None
        self._file = ShardFile(self.name, self.identity, stamp, open_file)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def skipped(self) -> int:
        """Members that belong to no record: without an extension, or hidden."""
        return self._index.skipped

    def key(self, i: int) -> str:
        return self._index.key(i)

    def members(self, i: int) -> dict[str, int]:
        """Extension and size in bytes of each member of record `i`; nothing is read."""
        return {extension: size for extension, size, _ in self._index.places(i)}

    def read(self, i: int) -> tuple[str, dict[str, bytes]]:
        """The key and the members (extension -> bytes) of record `i`."""
        read = self._file.read
        return self._index.key(i), {extension: read(size, offset) for extension, size, offset in self._index.places(i)}

    def read_member(self, i: int, extension: str) -> bytes:
        """One member of record `i`; KeyError if it has none of that extension."""
        return self.head(i, extension, -1)

    def head(self, i: int, extension: str, num_bytes: int) -> bytes:
        """The first bytes of a member of record `i`, all of it if it is shorter or `num_bytes` is -1."""
        for name, size, offset in self._index.places(i):
            if name == extension:
                return self._file.read(size if num_bytes < 0 else min(size, num_bytes), offset)
        raise KeyError(extension)

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
        if not 0 <= i < self._ends[-1]:
            raise IndexError(f"record {i} of {len(self)}")
        number = bisect_right(self._ends, i) - 1
        return self.shards[number], i - self._ends[number]

    def read(self, i: int) -> tuple[str, dict[str, bytes]]:
        shard, position = self.locate(i)
        return shard.read(position)

    def fingerprint(self) -> str:
        """Changes when a record is added, removed, moved or resized; does not depend on where the files lie."""
        return hashlib.blake2b("/".join(s.fingerprint() for s in self.shards).encode(), digest_size=16).hexdigest()


def open_shards(
    source: str | Path | Sequence[str | Path], progress: Callable[[int, int], None] | None = None
) -> ShardSet:
    """Open what a source names, and check all of it.

    Args:
        source: a `.tar`; a folder (its `dataset.json`, else all its `*.tar`); a `dataset.json`; a pattern such as
            `{00..07}.tar`, `data/*.tar` or `data/**/*.tar`; the URL of a `.tar`, of a `dataset.json`, of a folder that
            has one (ends with a slash), or a brace pattern of URLs; or a list of any of these.
        progress: called with the shards opened and their number.

    Raises:
        BadShard: names the file that is missing or wrong.
    """
    places = find_shards(source)
    shards = []
    for shard in (
        _in_threads(_open, places, num_threads) if (num_threads := _num_fetches(places)) else map(_open, places)
    ):
        shards.append(shard)
        if progress:
            progress(len(shards), len(places))
    seen: set[tuple[str, int, int]] = set()
    for shard in shards:
        if shard.identity in seen:
            raise BadShard(
                f"shard {shard.name}: comes twice in one source; to see records more often, raise the weight"
            )
        seen.add(shard.identity)
    return ShardSet(shards)


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


def _open(place: str | Entry) -> Shard:
    """Open a shard, and hold it against its entry in a manifest."""
    if isinstance(place, str):
        return _open_remote(place) if is_url(place) else Shard(place)
    if is_url(place.place):
        shard = _open_remote(place.place, place.num_bytes, place.sha256 or None)
    else:
        shard = Shard(place.place)
    if (shard.identity[1], len(shard)) != (place.num_bytes, place.samples):
        raise BadShard(
            f"shard {shard.name}: has {shard.identity[1]:,} bytes and {len(shard)} records, {MANIFEST} says "
            f"{place.num_bytes:,} and {place.samples}; fetch the shard again, or write the manifest again if the shard is right"
        )
    return shard


def _num_fetches(places: Sequence[str | Entry]) -> int:
    """How many shards may come at once; those on their way fit into half of the cache. 0 if all are here."""
    if not any(is_url(place if isinstance(place, str) else place.place) for place in places):
        return 0
    limit = cache_limit()
    if limit is None:
        return FETCHES
    sizes = [limit if isinstance(place, str) else max(1, place.num_bytes) for place in places]
    return max(1, min(FETCHES, limit // (2 * max(sizes))))


def _open_remote(url: str, num_bytes: int | None = None, sha256: str | None = None) -> Shard:
    try:
        cached = cached_file(url, num_bytes, sha256)
    except OSError as error:
        raise BadShard(
            f"shard {public_url(url)}: cannot be kept in {cache_folder()} ({error.strerror or error}); make room there, or set "
            "CONCEPTVLM_CACHE to another folder"
        ) from None
    return Shard(cached.path, cached)


def _index_of_cached(cached: CachedFile) -> TarIndex:
    """The index of a remote shard, which stays when the copy goes."""
    index = read_index(index_files(cached.path)[0], cached.path, *cached.stamp, tar_is_there=False)
    while index is None:
        descriptor = cached.open()
        try:
            index = load_index(cached.path, *cached.stamp)
        except FileNotFoundError:  # another process made room; the copy comes again
            pass
        except BadShard as error:
            raise BadShard(str(error).replace(str(cached.path), cached.name)) from None
        finally:
            os.close(descriptor)
    return index


def _in_threads(
    work: Callable[[str | Entry], Shard], places: Sequence[str | Entry], num_threads: int
) -> Iterator[Shard]:
    """As `map`, several at once. The threads end with the process: Ctrl-C does not wait for a transfer."""
    results: dict[int, Shard | BaseException] = {}
    changed, waiting = threading.Condition(), iter(range(len(places)))

    def run() -> None:
        while True:
            with changed:
                number = next(waiting, None)
            if number is None:
                return
            try:
                result: Shard | BaseException = work(places[number])
            except BaseException as error:
                result = error
            with changed:
                results[number] = result
                changed.notify_all()

    for _ in range(min(num_threads, len(places))):
        threading.Thread(target=run, daemon=True, name="open shards").start()
    try:
        for number in range(len(places)):
            with changed:
                while number not in results:
                    changed.wait(timeout=1.0)
                result = results.pop(number)
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        with changed:
            for _ in waiting:
                pass
