"""The cache of remote shards: whole files, checked when they come, shared by all processes of a machine, bounded if wished.

In: the URL of a file. Out: an open descriptor of a whole and checked copy.
`$CONCEPTVLM_CACHE` is the folder ($XDG_CACHE_HOME/conceptvlm or ~/.cache/conceptvlm if not set), `$CONCEPTVLM_CACHE_LIMIT`
the bytes that shards may take there ("200 GB"; no limit if not set). The least recently opened go first, also where the
data set is larger than the limit: they are fetched again when a record is read. Shards on their way take space beside the
limit, and so do those that were deleted while a process had them open, until it fetches the next.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from data.remote import download, look_up, public_url
from data.shard_file import Stamp, close_deleted_files
from data.strict_json import strict_json
from data.tar import BadShard, foreign

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def cache_folder() -> Path:
    """Where indexes and remote shards are kept."""
    named = os.environ.get("CONCEPTVLM_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "conceptvlm"


def cache_limit() -> int | None:
    """Bytes that remote shards may take on disk; None for any number.

    Raises:
        ValueError: the setting is no size.
    """
    text = os.environ.get("CONCEPTVLM_CACHE_LIMIT", "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?B?)", text, re.IGNORECASE)
    unit = match[2].upper() if match else "?"
    unit += "B" if unit in ("K", "M", "G", "T") else ""
    if match is None or unit not in UNITS:
        raise ValueError(f"CONCEPTVLM_CACHE_LIMIT is {text!r}; give bytes, or a number with a unit such as 200 GB")
    return int(float(match[1]) * UNITS[unit])


@dataclass(frozen=True)
class CachedFile:
    """A remote file that was fetched and checked once. It may be deleted at any time, and then comes again.

    Args:
        url: of the file, with all that it takes to fetch it.
        path: of the copy.
        num_bytes: of the file.
        sha256: of its bytes; what comes again must have the same.
    """

    url: str = field(repr=False)  # may hold credentials
    path: Path
    num_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The URL without credentials."""
        return public_url(self.url)

    @property
    def stamp(self) -> Stamp:
        """Size and time of change of the copy. The time is made of the checksum, so that it is the same each time it comes."""
        return Stamp(self.num_bytes, int(self.sha256[:7], 16) * 2 * 10**9)

    @property
    def identity(self) -> tuple[str, int, int]:
        return self.name, self.num_bytes, int(self.sha256[:15], 16)

    def open(self) -> int:
        """A descriptor of the copy, which is fetched if it is not there.

        Raises:
            BadShard: the file cannot be fetched, or is another than before.
        """
        with _locked(self.path.parent / "lock"):
            descriptor = self._open_here()
            return self._fetch() if descriptor is None else descriptor

    def _open_here(self) -> int | None:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        stat = os.fstat(descriptor)
        if Stamp(stat.st_size, stat.st_mtime_ns) == self.stamp:
            os.utime(self.path.parent / "lock")  # the last time of use
            return descriptor
        os.close(descriptor)
        return None

    def _fetch(self) -> int:
        close_deleted_files()
        part, _ = _fetched(self.url, self.path, self.num_bytes, self.sha256)
        return _keep(part, self)


def cached_file(url: str, num_bytes: int | None = None, sha256: str | None = None) -> CachedFile:
    """The file behind a URL as it is now, fetched if no copy of it was ever made.

    Args:
        url: of the file.
        num_bytes: of the file, where a manifest says it.
        sha256: of the file, where a manifest says it.

    Raises:
        BadShard: the URL, and why its file cannot be had.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", public_url(url).rsplit("/", 1)[-1])[-100:].lstrip(".") or "shard"
    name = f"shard-{name}" if name.startswith(("lock", "known.json")) else name
    # All of the URL: what stands behind a `?` may select the file.
    path = cache_folder() / "shards" / hashlib.blake2b(url.encode(), digest_size=12).hexdigest() / name
    with _locked(path.parent / "lock"):
        version = ""
        if sha256 is None:
            found = look_up(url)
            num_bytes, version = found.num_bytes if num_bytes is None else num_bytes, found.version
        known = _known(url, path)
        if known is not None:
            file, known_version = known
            same = file.sha256 == sha256 if sha256 is not None else version and version == known_version
            if same and num_bytes in (None, file.num_bytes):
                if sha256 is not None and not path.exists():
                    look_up(url)  # that it is gone is to be known now, not in the middle of a run
                return file
        part, digest = _fetched(url, path, num_bytes, sha256)
        file = CachedFile(url, path, part.stat().st_size, digest)
        os.close(_keep(part, file))
        _write(path.parent / "known.json", {"bytes": file.num_bytes, "sha256": digest, "version": version})
        return file


def _known(url: str, path: Path) -> tuple[CachedFile, str] | None:
    """What was fetched from here before, and the version that it was, whether or not its bytes are still there."""
    try:
        fields = strict_json((path.parent / "known.json").read_bytes())
        num_bytes, sha256, version = fields["bytes"], fields["sha256"], fields["version"]
        if type(num_bytes) is not int or not re.fullmatch("[0-9a-f]{64}", sha256) or not isinstance(version, str):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return CachedFile(url, path, num_bytes, sha256), version


def _fetched(url: str, path: Path, num_bytes: int | None, sha256: str | None) -> tuple[Path, str]:
    """A whole copy under a passing name, and its sha256."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        _make_room(part, num_bytes or 0, public_url(url))
        digest = download(url, part, num_bytes, sha256)
        with part.open("rb") as file:
            if fault := foreign(file.read(512)):
                raise BadShard(f"shard {public_url(url)}: {fault[0]}; {fault[1]}")
        if num_bytes is None:
            _make_room(part, part.stat().st_size, public_url(url))
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part, digest


def _keep(part: Path, file: CachedFile) -> int:
    """Give the copy its name. The descriptor is from before, so that no other process can delete it in between."""
    try:
        os.utime(part, ns=(file.stamp.mtime_ns, file.stamp.mtime_ns))
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        os.replace(part, file.path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.utime(file.path.parent / "lock")
    return descriptor


def _make_room(part: Path, num_bytes: int, name: str) -> None:
    """Delete the copies that were opened longest ago until a file of this size fits, and take its space."""
    limit, folder = cache_limit(), part.parent.parent
    if limit is not None and num_bytes > limit:
        raise BadShard(
            f"shard {name}: has {num_bytes:,} bytes, CONCEPTVLM_CACHE_LIMIT is {limit:,}; a shard is kept whole: raise it"
        )
    with _locked(folder / "lock"):
        _drop_left_overs(part)
        with part.open("ab") as file:
            file.truncate(num_bytes)  # takes no blocks, but counts for whoever makes room next
        if limit is None:
            return
        copies = sorted(copy for path in folder.glob("*/*") if (copy := _copy(path)) is not None)
        total = sum(size for _, size, _ in copies)
        for _, size, path in copies:
            if total > limit and path.suffix != ".part":
                path.unlink(missing_ok=True)
                total -= size


def _copy(path: Path) -> tuple[int, int, Path] | None:
    """(last use, bytes, path) of a copy; None for what else lies beside it."""
    if path.name.startswith(("lock", "known.json", ".")):
        return None
    try:
        return (path.parent / "lock").stat().st_mtime_ns, path.stat().st_size, path
    except OSError:  # it has got its name, or lost it, at this moment
        return None


def _drop_left_overs(own: Path) -> None:
    """Delete unfinished copies of processes that have died: nobody holds the lock beside them."""
    for part in own.parent.parent.glob("*/*.part"):
        if part == own or ".index.npz." in part.name:
            continue
        with open(part.parent / "lock", "a") as lock:
            try:
                if part.parent != own.parent:  # that lock is held by this process
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            part.unlink(missing_ok=True)


def _write(path: Path, fields: dict[str, object]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(fields) + "\n", encoding="utf-8")
    os.replace(part, path)


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock over threads, processes and, where the file system knows locks, machines."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise BadShard(
            f"remote shards cannot be kept in {lock.parent} ({error.strerror}); set CONCEPTVLM_CACHE to a folder that can "
            "be written"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
