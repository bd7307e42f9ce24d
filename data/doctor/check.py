"""One shard as a whole: whether it is what its manifest says, and whether its members can be trusted.

In: a place. Out: a `ShardCheck`, with the places from which its records can be read in parts.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from data.doctor.flaws import Flaws
from data.doctor.places import Place
from data.doctor.walk import walk
from data.tar import BadShard, scan

RECORDS_PER_PART = 500
STEP = 8 * 2**20  # bytes of one read while a checksum is made

Beat = Callable[[int], None]  # called with the bytes done since the last call


@dataclass(frozen=True)
class Stretch:
    """Records of a shard that are read together."""

    start: int  # byte of the first one's header
    count: int


@dataclass
class ShardCheck:
    """What was found out about one shard without reading its records."""

    place: Place
    size: int = 0  # bytes
    num_records: int = 0
    stretches: list[Stretch] = field(default_factory=list)
    broken: frozenset[str] = frozenset()  # keys of records that lost a member, or came twice
    skipped: Counter[str] = field(default_factory=Counter)  # members that belong to no record, by what they look like
    is_summed: bool = False  # True where its sha256 was made
    faults: Flaws = field(default_factory=Flaws)
    warnings: Flaws = field(default_factory=Flaws)


def check_shard(place: Place, beat: Beat) -> ShardCheck:
    """Walk a shard's headers, and read every byte where a manifest has its sum."""
    found = ShardCheck(place)
    try:
        if not stat.S_ISREG(place.path.stat().st_mode):  # to open a pipe would wait for ever
            found.faults.add(place.path, None, "cannot be read", "is no file; give a tar")
            return found
        with place.path.open("rb", buffering=0) as file:
            found.size = os.fstat(file.fileno()).st_size
            _compare_sum(found, file.fileno(), beat)
            _walk(found, file.fileno())
        if not found.faults.total:
            scan(place.path)  # what training does first: it has the last word
    except BadShard as error:
        found.faults.add(place.path, None, "refused by training", str(error))
    except OSError as error:
        found.faults.add(place.path, None, "cannot be read", f"cannot be read: {error.strerror}")
        return found
    promise = place.promise
    is_cut = "cut short" in found.faults.counts
    if promise is not None and promise.samples != found.num_records and not is_cut:
        message = f"has {found.num_records:,} records, {promise.manifest.name} says {promise.samples:,}"
        found.faults.add(place.path, None, "unlike the manifest", message)
    if not found.num_records and not found.faults.total:
        found.warnings.add(place.path, None, "no records", "is a sound tar without any record")
    return found


def _compare_sum(found: ShardCheck, file: int, beat: Beat) -> None:
    promise, path = found.place.promise, found.place.path
    if promise is None:
        return
    if promise.num_bytes != found.size:
        message = f"has {found.size:,} bytes, {promise.manifest.name} says {promise.num_bytes:,}"
        found.faults.add(path, None, "unlike the manifest", message)
    elif promise.sha256 is not None:
        digest, offset = hashlib.sha256(), 0
        while chunk := os.pread(file, STEP, offset):
            digest.update(chunk)
            offset += len(chunk)
            beat(len(chunk))
        found.is_summed = True
        if digest.hexdigest() != promise.sha256.lower():
            message = f"has another SHA-256 than {promise.manifest.name} says: its bytes were changed"
            found.faults.add(path, None, "unlike the manifest", message)


def _walk(found: ShardCheck, file: int) -> None:
    path = found.place.path
    broken: set[str] = set()

    def note(key: str | None, reason: str, message: str) -> None:
        found.faults.add(path, key, reason, message)
        if key is not None:
            broken.add(key)

    def skipped(name: str) -> None:
        base = name.rsplit("/", 1)[-1]
        found.skipped["hidden file" if base.startswith(".") else "no extension"] += 1

    start = count = 0
    for span in walk(file, found.size, 0, note, skipped):
        if count == 0:
            start = span.start
        count += 1
        found.num_records += 1
        if count == RECORDS_PER_PART:
            found.stretches.append(Stretch(start, count))
            count = 0
    if count:
        found.stretches.append(Stretch(start, count))
    found.broken = frozenset(broken)
