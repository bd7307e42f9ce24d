"""The files of an official release: found, or named when they are missing; read row by row.

In: a folder as people unpack it. Out: rows as dicts, pictures as bytes. Nothing in a release is run, and nothing outside its
folder is read.
"""

import base64
import binascii
import csv
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_SHOWN = 8  # files of a wrong folder that the error names
_ROWS = 64  # of parquet, held at once: a row holds its picture


class Release:
    """A folder with the release of a benchmark.

    Args:
        folder: as given by the user.
        needs: what a converter wants in it, in words; said when it is not there.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, folder: Path, needs: str) -> None:
        self.folder, self.needs = folder, needs
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}; it must hold the official release: {needs}")

    def find(self, *patterns: str) -> list[Path]:
        """All files of the first pattern that has any, sorted by name.

        Raises:
            ValueError: none has; says what the release must hold and what the folder holds.
        """
        for pattern in patterns:
            if found := sorted(path for path in self.folder.glob(pattern) if path.is_file()):
                return found
        raise self.wrong(f"has no {' and no '.join(patterns)}")

    def file(self, *patterns: str) -> Path:
        """The one file of the first pattern that has any.

        Raises:
            ValueError: there is none, or there are several.
        """
        found = self.find(*patterns)
        if len(found) > 1:
            raise self.wrong(f"has {len(found)} files of the name {found[0].name}, such as {found[0]} and {found[1]}")
        return found[0]

    def folder_of(self, *names: str, near: Path) -> Path:
        """The first of these folders that is there, beside a file or in the release; else the first, for the error to name."""
        places = [base / name for name in names for base in (near.parent, self.folder)]
        return next((place for place in places if place.is_dir()), self.folder / names[0])

    def coco_picture(self, split: str, number: int) -> bytes:
        """A picture of COCO 2014 (`val2014`, `train2014`) by its number, where people unpack it.

        Raises:
            ValueError: it is missing.
        """
        name = f"COCO_{split}_{number:012d}.jpg"
        places = [self.folder / folder / split / name for folder in ("", "images", "coco", "coco/images")]
        return self.picture(next((place for place in places if place.is_file()), places[0]))

    def wrong(self, fault: str) -> ValueError:
        """An error that says what is missing, what is needed and what is there."""
        there = sorted(f"{path.name}/" if path.is_dir() else path.name for path in self.folder.iterdir())
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        return ValueError(
            f"{self.folder} {fault}; needed: {self.needs}; there: {', '.join(there[:_SHOWN]) or 'nothing'}{more}"
        )

    def picture(self, path: Path) -> bytes:
        """A picture's bytes as stored.

        Raises:
            ValueError: it is missing, or lies outside the release.
        """
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise self.wrong(f"names a picture outside itself: {path}")
        if not path.is_file():
            raise self.wrong(f"lacks the picture {path.relative_to(self.folder)}")
        return path.read_bytes()


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}; fetch it again") from error


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file.

    Raises:
        ValueError: a line is none; gives its number.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}: line {number} is no JSON: {error}; fetch it again") from error


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a .tsv or .csv with a header, as texts; an empty field is "".

    Raises:
        ValueError: a row has more or fewer fields than the header.
    """
    csv.field_size_limit(sys.maxsize)  # a field may hold a picture
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path}: line {reader.line_num} has not as many fields as the header; fetch it again"
                    )
                yield row
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num}: {error}; fetch it again") from error


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file, a few at a time.

    Raises:
        ValueError: the file cannot be read, or the package that reads it is missing.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            f"reading {path.name} needs pyarrow; install it with pip install 'conceptvlm[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                yield from batch.to_pylist()
    except (ValueError, OSError) as error:  # pyarrow's errors for damaged files are of these kinds
        raise ValueError(f"{path} cannot be read as parquet: {error}; fetch it again") from error


def stored_picture(value: object, where: str) -> bytes:
    """A picture as a column holds it: {"bytes": ...} as in parquet, bytes, or base64 text as in TSV.

    Raises:
        ValueError: there is none.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value:
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{where}: the picture is no base64 text ({error}); fetch the release again") from error
    raise ValueError(f"{where}: there is no picture in it; fetch the release with its pictures")


def columns(row: Mapping[str, Any], *names: str, where: str) -> list[Any]:
    """The values of these columns.

    Raises:
        ValueError: names the column that is missing, and those that are there.
    """
    for name in names:
        if name not in row:
            raise ValueError(
                f"{where} has no {name!r}; it has: {', '.join(map(str, row))}; is it this benchmark's release?"
            )
    return [row[name] for name in names]
