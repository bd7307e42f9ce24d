"""What a conversion has done so far: `.progress.jsonl` in its output, so that a run that was killed goes on.

In: shards as they are completed, faults as they are met. Out: where to go on. A shard's line is written when the shard is on the disk
under its name, so what the journal names is complete, and what it does not name is made again, to the same bytes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from data.convert.record import Fault
from data.shard_writer import PART, WrittenShard, names_file, sync_folder

JOURNAL = ".progress.jsonl"
VERSION = 1


class Journal:
    """Opens an output folder for one run alone.

    Args:
        folder: empty or missing, or that of an earlier run.
        settings: everything that decides the bytes of the output, by the name of its option.

    Raises:
        ValueError: the folder is in use, holds something else, was begun otherwise, or a finished shard has changed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self._path = folder, folder / JOURNAL
        self.shards: list[tuple[str, WrittenShard]] = []  # (folder of its split, shard)
        self.open: dict[str, list[int]] = {}  # split -> numbers of the records of its shard that was open
        self.next = 0  # all records before it are in `shards` or `open`, or are faults
        self.summary: dict[str, Any] | None = None  # of a run that came to its end
        self.faults = Counter[str]()
        self.left_out = Counter[str]()
        self._is_made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{folder}: another run writes here; wait for it, or choose another folder") from None
            self._begin(json.loads(json.dumps({"version": VERSION, **settings})))
        except BaseException:
            if self._is_made and not any(folder.iterdir()):
                folder.rmdir()
            os.close(self._lock)
            raise

    def _begin(self, settings: dict[str, Any]) -> None:
        lines: list[dict[str, Any]] = []
        if self._path.exists():
            lines = self._read()
            if lines[0]["settings"] != settings:
                raise ValueError(_difference(self.folder, lines[0]["settings"], settings))
        elif found := sorted(path.name for path in self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty (it has {found[0]!r}); choose another folder")
        kept = [{"settings": settings}, *self._replay(lines[1:])]
        part = self.folder / f"{JOURNAL}{PART}"
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(part, self._path)
        self._file = self._path.open("a", encoding="utf-8")
        for split in {"", "train", "val"}:
            for path in (self.folder / split).glob(f".*{PART}"):
                path.unlink()

    def _read(self) -> list[dict[str, Any]]:
        """The lines that were written whole."""
        text = self._path.read_text(encoding="utf-8")
        try:
            lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
            if not lines or "settings" not in lines[0]:
                raise ValueError("its first line is missing")
        except ValueError as error:
            raise ValueError(f"{self._path} cannot be read ({error}); remove the folder and begin anew") from None
        return lines

    def _replay(self, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Take up what the lines say; returns those that hold. Faults behind the last shard are met again."""
        last = max((number for number, line in enumerate(lines) if "shard" in line), default=-1)
        for line in lines:
            if "shard" in line:
                self.shards.append((line["split"], WrittenShard(**line["shard"])))
                self.next = line["next"]
                self.open[line["split"]] = []
                for split, numbers in line["open"].items():
                    self.open.setdefault(split, []).extend(numbers)
            if "summary" in line:
                self.summary = line["summary"]
        kept = [line for number, line in enumerate(lines) if number <= last or self.summary is not None]
        for line in kept:
            if "fault" in line:
                self._count(Fault(**line["fault"]))
        return kept

    def verify(self) -> Iterator[int]:
        """Check the finished shards against their sizes and sums; yields the bytes of each.

        Raises:
            ValueError: one has changed.
        """
        for split, shard in self.shards:
            path = self.folder / split / shard.name
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}; remove {self.folder} and begin anew") from None
            if digest != shard.sha256:
                raise ValueError(f"{path} is not what was written there; remove {self.folder} and begin anew")
            yield shard.bytes

    def note_shard(self, split: str, shard: WrittenShard, next_number: int, fresh: Mapping[str, Sequence[int]]) -> None:
        """A shard is complete.

        Args:
            next_number: the first item that is not dealt with.
            fresh: for other splits, the records that went into their open shards since the last such note.
        """
        self.shards.append((split, shard))
        self._write({"split": split, "shard": asdict(shard), "next": next_number, "open": dict(fresh)})
        self._sync()

    def note_fault(self, fault: Fault) -> None:
        self._count(fault)
        self._write({"fault": asdict(fault)})

    def note_end(self, summary: Mapping[str, Any]) -> None:
        self._write({"summary": dict(summary)})
        self._sync()
        sync_folder(self.folder)

    def noted_faults(self) -> Iterator[dict[str, Any]]:
        """All faults, in the order of the source; not what was left out."""
        self._file.flush()
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                fault = json.loads(line).get("fault")
                if fault is not None and not fault.pop("left_out"):
                    yield fault

    def _count(self, fault: Fault) -> None:
        (self.left_out if fault.left_out else self.faults)[fault.reason] += 1

    def _write(self, line: Mapping[str, Any]) -> None:
        with names_file(self._path):
            self._file.write(json.dumps(line) + "\n")

    def _sync(self) -> None:
        with names_file(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what it still held is made again
            self._file.close()
        if error is not None and not self.shards:
            self._leave_nothing()
        os.close(self._lock)

    def _leave_nothing(self) -> None:
        """Take away what was made here, if nothing came of it."""
        names = {path.name for path in self.folder.iterdir() if not path.is_dir() or any(path.iterdir())}
        if names <= {JOURNAL}:
            for path in self.folder.iterdir():
                path.unlink() if path.name == JOURNAL else path.rmdir()
            if self._is_made:
                self.folder.rmdir()


def _difference(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why a run cannot go on here."""
    name = next(name for name in [*before, *now] if before.get(name) != now.get(name))
    if name == "files":
        what = "of other files, or they have changed since"
    elif name == "version":
        what = "by another version of this program"
    else:
        what = f"with {name} {before.get(name)}, this is {now.get(name)}"
    return f"{folder} was begun {what}; go on with the same command, or choose another folder"


def fingerprint(files: Sequence[Path]) -> str:
    """Changes when a file is added, removed, renamed, resized or written again."""
    top = os.path.commonpath([file.absolute().parent for file in files]) if files else ""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        status = file.stat()
        digest.update(repr((os.path.relpath(file.absolute(), top), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()
