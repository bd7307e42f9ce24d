"""The list of records that cannot be used: one JSON line each, in the run's folder.

In: entries. Out: `quarantine.jsonl`. All processes of a run that share its folder append to one file, under a lock, and
look there first: a record is listed once, over epochs, processes and restarts, as long as its bytes are the same. A line is
written in one piece, so one that a kill cut off is the last, and is passed over.
"""

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
QUARANTINE = "quarantine.jsonl"


class Quarantine:
    """Appends to the list; the file is made with its first line.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._listed: set[str] = set()
        self._read_to = 0  # bytes of the file that are among `_listed`
        self._is_usable = True

    def add(self, entry: Mapping[str, Any]) -> None:
        """List a record, unless it is. A list that cannot be written costs no run: it is told once, and given up.

        Args:
            entry: with `shard`, `key` and `sha256` of the members, by which a record is known, and whatever else is to be told.
        """
        if not self._is_usable:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._append(file, entry)
            finally:
                os.close(file)
        except OSError as error:
            self._is_usable = False
            log.warning("cannot list records left out in %s (%s); they are counted only", self.path, error.strerror)

    def _append(self, file: int, entry: Mapping[str, Any]) -> None:
        size = os.fstat(file).st_size
        if size < self._read_to:  # removed or emptied by somebody
            self._listed, self._read_to = set(), 0
        new = os.pread(file, size - self._read_to, self._read_to)
        self._listed.update(filter(None, map(_identity_of_line, new.splitlines())))
        identity = _identity(entry)
        if identity not in self._listed:
            line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
            if new and not new.endswith(b"\n"):
                line = b"\n" + line
            os.write(file, line)
        # A line cut off is read once more, together with what follows.
        self._read_to = size if new.endswith(b"\n") else self._read_to


def _identity(entry: Mapping[str, Any]) -> str:
    return repr((entry["shard"], entry["key"], sorted(entry["sha256"].items())))


def _identity_of_line(line: bytes) -> str | None:
    try:
        return _identity(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
