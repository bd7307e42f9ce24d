"""predictions.jsonl: what a model answered, kept as it comes, so that a killed run goes on and scoring needs no model.

One line per answer: {"id", "blind", "key", "output"} with a string (generate) or the candidates' scores (choose), or
"error" in place of "output" where the record turned out to be bad; "truncated" where the answer was cut off, and "tokens"
where the model counts them. `key` names everything that the answer hangs on.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "predictions.jsonl"


@dataclass(frozen=True)
class Prediction:
    id: str
    blind: bool
    key: str
    output: str | list[float] | None = None
    truncated: bool = False  # max_new_tokens cut the answer off
    tokens: int | None = None  # of the answer
    error: str | None = None  # a fault of the record, found when its picture was decoded; it is not scored


def task_folder(folder: str | Path, task_name: str) -> Path:
    return Path(folder) / task_name


def read_predictions(path: Path) -> dict[str, Prediction]:
    """The kept answers by key; of two under one key the later counts. A half-written last line is left out.

    Raises:
        ValueError: a line before the last cannot be read.
    """
    if not path.exists():
        return {}
    found: dict[str, Prediction] = {}
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            record: Mapping[str, Any] = json.loads(line)
            kept = Prediction(**{"output": None, **record})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: line {number} is not a prediction ({type(error).__name__}: {error}); delete that line to "
                "have its question asked again, or the file to have all"
            ) from error
        found[kept.key] = kept
    return found


class PredictionWriter:
    """Appends batches; each is on the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        # A run killed while writing leaves half a line; the next one would be glued to it.
        size = path.read_bytes().rfind(b"\n") + 1
        if size < path.stat().st_size:
            os.truncate(path, size)

    def append(self, predictions: Sequence[Prediction]) -> None:
        self._file.write(_lines(predictions).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """A whole file anew, all of it or nothing."""
    write_atomically(path, _lines(predictions))


def _lines(predictions: Iterable[Prediction]) -> str:
    return "".join(json.dumps(_record(prediction)) + "\n" for prediction in predictions)


def _record(prediction: Prediction) -> dict[str, Any]:
    record: dict[str, Any] = {"id": prediction.id, "blind": prediction.blind, "key": prediction.key}
    if prediction.error is not None:
        return record | {"error": prediction.error}
    record["output"] = prediction.output
    if prediction.truncated:
        record["truncated"] = True
    return record if prediction.tokens is None else record | {"tokens": prediction.tokens}


def write_atomically(path: Path, text: str) -> None:
    """All of the file or none of it, also when the machine stops in between.

    Raises:
        ValueError: there is something that is no file, such as a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file but a folder or a device; name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
