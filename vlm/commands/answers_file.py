"""The file that `vlm generate --output` writes: one JSON line for each request, each whole or not there.

Lines come as answers finish, so a killed run loses only what was being answered; the same command then asks what is
missing. At the end the lines are put in the order of the requests, so that a run in two goes leaves what a run in one
leaves, but for the last digits of log-probabilities. A line's `key` says what its answer hangs on: model files, sampling,
and prompt with pictures.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm.commands.requests import Asked, read_picture

Record = Mapping[str, Any]  # a line: id, prompt, answer, finish, error, logprob, prompt_tokens, answer_tokens, key
BEGIN = b'{"id": '
KEY_PARTS = ("another model", "other sampling options", "another prompt or other pictures")


def model_key(folder: Path) -> str:
    """Changes with every byte of the model's files; found without loading it."""
    from vlm.model_folder import model_files

    digest = hashlib.blake2b(digest_size=6)
    for path in model_files(folder):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def answer_key(model: str, asked: Asked, pictures: Sequence[str]) -> str:
    """What an answer hangs on, in three parts, so that a difference can be named.

    Args:
        model: the `model_key`.
        pictures: the `picture_key` of each picture.
    """
    assert asked.sampling is not None
    parts = (asdict(asked.sampling), [asked.prompt, *pictures])
    digests = (hashlib.blake2b(json.dumps(part).encode(), digest_size=6).hexdigest() for part in parts)
    return "-".join((model, *digests))


def answered(path: Path, asked: Sequence[Asked], model: str) -> set[str]:
    """The ids whose answer is in the file and need not be asked for again; those that ended in an error do.

    Raises:
        ValueError: the file has lines that are no answers, or answers that these requests would not get.
    """
    asked_by_id = {str(one.id): one for one in asked}
    done: set[str] = set()
    differ: list[str] = []
    for name, line in read_answers(path).items():
        one = asked_by_id.get(name)
        if one is None:
            differ.append(f"{line['id']!r} is not among the requests")
        elif line["finish"] != "error":
            other = _difference(str(line["key"]), one, model)
            if other is not None:
                differ.append(f"{line['id']!r} is of {other}")
            done.add(name)
    if differ:
        raise ValueError(
            f"{path} holds answers that this command would not give: {differ[0]} ({len(differ)} such); to go on, give "
            "the model, options and requests that it was begun with; else choose another --output, or delete it"
        )
    return done


def _difference(key: str, asked: Asked, model: str) -> str | None:
    from data.image import picture_key

    if asked.sampling is None:
        return KEY_PARTS[2]
    try:
        pictures = [picture_key(read_picture(path)) for path in asked.images]
    except ValueError:
        return KEY_PARTS[2]
    own = answer_key(model, asked, pictures)
    return next(
        (name for name, old, new in zip(KEY_PARTS, key.split("-"), own.split("-"), strict=False) if old != new), None
    )


def read_answers(path: Path) -> dict[str, Record]:
    """The lines by id; of two with one id the later counts. A half-written last line is left out.

    Raises:
        ValueError: a line is no answer: the file is something else.
    """
    if not path.exists():
        return {}
    if not path.is_file():
        raise ValueError(f"--output {path} is no file; give the name of a file, or leave it out to print the answers")
    whole, _, half = path.read_bytes().rpartition(b"\n")
    found: dict[str, Record] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            record = json.loads(line)
            _ = record["finish"], record["key"]
            found[str(record["id"])] = record
        except (ValueError, KeyError, TypeError):
            raise _no_answer(path, number) from None
    # What a kill leaves begins as our lines do; anything else was written by somebody else and is not to be cut off.
    if not half.startswith(BEGIN[: len(half)]):
        raise _no_answer(path, whole.count(b"\n") + 2 if whole else 1)
    return found


def _no_answer(path: Path, number: int) -> ValueError:
    return ValueError(
        f"{path}: line {number} is no answer of `vlm generate`; choose another --output, "
        "or delete the line to have its request asked again"
    )


def write_line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


class AnswersFile:
    """Appends answers to a file that `answered` has found in order; for one process at a time.

    Raises:
        ValueError: another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # the file that a link names is replaced, not the link
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{path} is being written by another process; wait for it, or stop it") from None
        # A run killed while writing leaves half a line; the next one would be glued to it.
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    def append(self, record: Record) -> None:
        """Write one line; a killed process does not lose it."""
        self._file.write(write_line(record).encode())
        self._file.flush()

    def sort(self, ids: Iterable[str]) -> None:
        """Put the lines in this order, one for each id: an answer takes the place of the error before it."""
        from eval.predictions import write_atomically

        lines = read_answers(self._path)
        text = "".join(write_line(lines[name]) for name in ids)
        if text.encode() != self._path.read_bytes():
            write_atomically(self._path, text)

    def __enter__(self) -> "AnswersFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
