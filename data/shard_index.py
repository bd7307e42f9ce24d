"""The index of a shard, kept on disk: `.NAME.tar.index.npz` beside the tar, or in the cache where that cannot be written.

In: a tar. Out: its `TarIndex`, loaded if one is kept that fits (1.5 ms and 1 us a record), else scanned (5 us a member).
Kept indexes are a cache: a wrong, damaged or hostile one is thrown away and made again, and deleting one costs time alone.

An index fits if the tar's size and time of change (ns) are those it was made from, and so are the tar's first and last
blocks and some headers in between. So a tar that was written anew, cut, or changed in these places is noticed. Not noticed
is a tar changed in place, of the same size, with its time of change set back, that differs between these places alone;
and records that an index made on purpose leaves out. No byte range outside the tar is ever taken from an index.
"""

import contextlib
import hashlib
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from data.shard_cache import cache_folder
from data.tar import BadShard, scan
from data.tar_index import BLOCK, TYPES, TarIndex, checked_index

VERSION = 1
PROBES = 8  # headers whose bytes an index remembers, beside the first and last blocks


def load_index(path: Path, size: int, mtime_ns: int) -> TarIndex:
    """The index of a tar that has this size and time of change.

    Raises:
        BadShard: what is wrong with the tar.
        OSError: the tar cannot be read.
    """
    files = index_files(path)
    for file in files:
        index = read_index(file, path, size, mtime_ns)
        if index is not None:
            return index
    index = scan(path)
    now = path.stat()
    if (now.st_size, now.st_mtime_ns) != (size, mtime_ns):
        raise BadShard(f"shard {path}: changed while it was read; start again, and leave the file alone meanwhile")
    for file in files:
        if write_index(index, file, path, size, mtime_ns):
            break
    return index


def index_files(path: Path) -> tuple[Path, Path]:
    """Where the index of a tar may be kept, in the order of trial."""
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=16).hexdigest()
    return path.with_name(f".{path.name}.index.npz"), cache_folder() / "indexes" / f"{name}.npz"


def read_index(file: Path, path: Path, size: int, mtime_ns: int, tar_is_there: bool = True) -> TarIndex | None:
    """The kept index if it fits the tar, else None.

    Args:
        tar_is_there: False if the tar was checked whole by its sha256 and has been deleted since.
    """
    # Anything may lie under that name, and zipfile and numpy raise a dozen kinds of errors for what they cannot read.
    try:
        arrays = _arrays(file, size)
        if arrays is None or arrays["tar"].tolist()[:3] != [VERSION, size, mtime_ns]:
            return None
        index = checked_index(arrays, size)
        digests = arrays["digests"].tobytes()
        if digests[:16] != bytes.fromhex(index.fingerprint()) or len(digests) != 32:
            return None
        if tar_is_there and digests[16:] != _probe(path, index, size):
            return None
    except Exception:
        return None
    return index


def write_index(index: TarIndex, file: Path, path: Path, size: int, mtime_ns: int) -> bool:
    """Keep an index, all or nothing; False where the folder cannot be written."""
    part = file.with_name(f"{file.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        digests = np.frombuffer(bytes.fromhex(index.fingerprint()) + _probe(path, index, size), np.uint8)
        if file.parent != path.parent:
            file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as out:
            tar = np.array([VERSION, size, mtime_ns], np.int64)
            np.savez(out, allow_pickle=False, tar=tar, digests=digests, **index.arrays())
        os.replace(part, file)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be deleted
            part.unlink(missing_ok=True)
    return True


def _arrays(file: Path, tar_bytes: int) -> dict[str, Any] | None:
    """The arrays of a kept index; None if there is none or it is larger than an index of such a tar can be."""
    try:
        found = file.stat()
    except OSError:
        return None
    num_bytes = found.st_size
    # A member takes two blocks of the tar and at most a name and 24 bytes of the index: larger is a bomb. Packed is none
    # of ours, and could be one.
    if not stat.S_ISREG(found.st_mode) or num_bytes > 2 * tar_bytes + 2**16:
        return None
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        stored = all(e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size for e in entries)
        if not stored or sum(entry.file_size for entry in entries) > num_bytes:
            return None
        arrays = {}
        for name in ("tar", "digests", *TYPES):  # as np.load does, which takes twice as long for small ones
            with archive.open(f"{name}.npy") as entry:
                arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
    return arrays


def _probe(path: Path, index: TarIndex, size: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    count = len(index.members)
    numbers = sorted({round(i * (count - 1) / (PROBES - 1)) for i in range(PROBES)}) if count else []
    headers = (index.members["offset"][numbers] - BLOCK).tolist()
    with path.open("rb", buffering=0) as file:
        for offset in (0, *headers, max(0, size - 2 * BLOCK)):
            digest.update(os.pread(file.fileno(), 2 * BLOCK, offset))
    return digest.digest()
