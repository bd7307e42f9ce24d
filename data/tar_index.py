"""Where the records of a shard lie, in arrays: 16 bytes a member, 16 and its name a record, so that ten million fit.

In: members one after another, or the arrays of an index kept on disk. Out: keys, and byte ranges by extension.
An index from disk is a stranger's until `check` has seen it: no byte range may leave the tar, no name may mislead.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

BLOCK = 512
MAX_MEMBER_BYTES = 64 * 2**20
MAX_NAME = 255  # characters
MEMBER = np.dtype([("extension", "<i4"), ("size", "<i4"), ("offset", "<i8")])
# In names that each stand between two line feeds: an empty one, a leading slash, a part that leads out of the folder.
_MISLEADING = (b"\n\n", b"\n/", b"\n../", b"/../", b"/..\n", b"\n..\n")


class TarIndex:
    """Keys, and where the members of each lie.

    Args:
        keys: (bytes,) uint8, the keys in UTF-8, each closed by a line feed.
        firsts: (records + 1,) int64, the first member of each record; the last is the number of members.
        members: (members,) of dtype MEMBER, extension by its number; in the order of the tar.
        extensions: their names.
        skipped: members that are in no record: without an extension, or hidden.
    """

    def __init__(
        self,
        keys: np.ndarray,
        firsts: np.ndarray,
        members: np.ndarray,
        extensions: tuple[str, ...] = (),
        skipped: int = 0,
    ) -> None:
        self.skipped = skipped
        self.firsts, self.members, self.extensions = firsts, members, extensions
        self._keys, self._ends = keys, np.flatnonzero(keys == ord("\n"))
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def __getstate__(self) -> dict[str, Any]:
        return self.arrays()

    def __setstate__(self, arrays: dict[str, Any]) -> None:
        self.__init__(*_parts(arrays))  # type: ignore[misc]

    def key(self, i: int) -> str:
        if not 0 <= i < len(self._ends):
            raise IndexError(f"record {i} of {len(self)}")
        start = int(self._ends[i - 1]) + 1 if i else 0
        return str(self._keys[start : self._ends[i]].tobytes(), "utf-8")

    def places(self, i: int) -> list[tuple[str, int, int]]:
        """Extension, size and offset of each member of record `i`."""
        if not 0 <= i < len(self._ends):
            raise IndexError(f"record {i} of {len(self)}")
        names = self.extensions
        members = self.members[self.firsts[i] : self.firsts[i + 1]].tolist()
        return [(names[extension], size, offset) for extension, size, offset in members]

    def fingerprint(self) -> str:
        """Changes when a record is added, removed, renamed, moved or resized."""
        if not self._fingerprint:
            digest = hashlib.blake2b(digest_size=16)
            for array in self.arrays().values():
                data = array.tobytes()
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it in three arrays: each costs a tenth of a millisecond to load, and data sets have thousands of shards."""
        names = "".join(f"{name}\n" for name in self.extensions).encode()
        return {
            "numbers": np.concatenate(([self.skipped, len(self._keys)], self.firsts)),
            "names": np.concatenate((self._keys, np.frombuffer(names, np.uint8))),
            "members": self.members,
        }


TYPES = {"numbers": np.int64, "names": np.uint8, "members": MEMBER}


def checked_index(arrays: Mapping[str, np.ndarray], tar_bytes: int) -> TarIndex:
    """An index from arrays that anybody may have written.

    Raises:
        ValueError: the arrays are not those of an index of a tar of this size.
    """
    for name, dtype in TYPES.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise ValueError(f"{name} has another type")
    if len(arrays["numbers"]) < 3 or not 0 <= arrays["numbers"][1] <= len(arrays["names"]):
        raise ValueError("the numbers are not those of an index")
    index = TarIndex(*_parts(arrays))
    _check_names(index)
    _check_places(index, tar_bytes)
    return index


def _parts(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], int]:
    numbers, names = arrays["numbers"], arrays["names"]
    skipped, keys_end = numbers[:2].tolist()
    extensions = names[keys_end:].tobytes().decode("utf-8").split("\n")
    return names[:keys_end], numbers[2:], arrays["members"], tuple(extensions[:-1]), skipped


def _check_names(index: TarIndex) -> None:
    blob = index._keys.tobytes()
    text = blob.decode("utf-8")
    if len(index._ends) != len(index) or (len(blob) and not blob.endswith(b"\n")):
        raise ValueError("there are not as many keys as records")
    between = b"\n" + blob
    if any(part in between for part in _MISLEADING) or not text.replace("\n", "").isprintable():
        raise ValueError("a key could mislead")
    if len(index) and np.diff(index._ends, prepend=-1).max() > 4 * MAX_NAME:
        raise ValueError("a key is too long")
    for name in index.extensions:
        if not name.isprintable() or not name or "/" in name or name.startswith("__") or len(name) > MAX_NAME:
            raise ValueError("an extension could mislead")


def _check_places(index: TarIndex, tar_bytes: int) -> None:
    firsts, members = index.firsts, index.members
    if firsts[0] != 0 or firsts[-1] != len(members) or (np.diff(firsts) < 1).any():
        raise ValueError("records and members do not fit together")
    if not len(members):
        return
    extension, size, offset = members["extension"], members["size"], members["offset"]
    if extension.min() < 0 or extension.max() >= len(index.extensions):
        raise ValueError("an extension has no name")
    if size.min() < 0 or size.max() > MAX_MEMBER_BYTES or offset.min() < BLOCK or offset.max() > tar_bytes:
        raise ValueError("a member lies outside the tar")
    ends = offset + -(-size.astype(np.int64) // BLOCK) * BLOCK
    if (offset % BLOCK).any() or (offset[1:] < ends[:-1] + BLOCK).any() or ends[-1] + 2 * BLOCK > tar_bytes:
        raise ValueError("members lie over each other, or behind the tar's end")
    records = np.repeat(np.arange(len(index)), np.diff(firsts))
    named = np.sort(records * len(index.extensions) + extension)
    if (named[1:] == named[:-1]).any():
        raise ValueError("a record has an extension twice")


class IndexBuilder:
    """Takes members in their order. Refusing those that cannot be trusted is the caller's."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._firsts: list[int] = []
        self._members: list[tuple[int, int, int]] = []
        self._extensions: dict[str, int] = {}
        self._here: set[str] = set()
        self.skipped = 0

    def add_key(self, key: str) -> None:
        self._keys.append(key)
        self._firsts.append(len(self._members))
        self._here.clear()

    def add_member(self, extension: str, size: int, offset: int) -> bool:
        """False if the record has such a member already."""
        if extension in self._here:
            return False
        self._here.add(extension)
        number = self._extensions.setdefault(extension, len(self._extensions))
        self._members.append((number, size, offset))
        return True

    def build(self) -> TarIndex:
        keys = np.frombuffer("".join(f"{key}\n" for key in self._keys).encode("utf-8"), np.uint8)
        firsts = np.array([*self._firsts, len(self._members)], np.int64)
        return TarIndex(keys, firsts, np.array(self._members, MEMBER), tuple(self._extensions), self.skipped)
