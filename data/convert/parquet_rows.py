"""The rows of parquet files, a few at a time; needs pyarrow, which is imported here alone.

In: files and the columns that are wanted. Out: `Item`s whose payload is a row as a mapping. Groups of rows that nobody wants any more
are not read, so a conversion that goes on does not read all pictures again.
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.convert.record import BAD_JSON, Item, Wanted
from data.sample import BadRecord

_ROWS = 32  # at a time


def _open(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ValueError(
            f"reading {path.name} needs pyarrow; install it with pip install 'conceptvlm[parquet]'"
        ) from None
    try:
        return parquet.ParquetFile(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # pyarrow's errors for damaged files are of this kind
        raise ValueError(f"{path}: is no complete parquet file ({error})") from None


def num_rows(files: Sequence[Path]) -> int:
    return sum(_open(path).metadata.num_rows for path in files)


def columns_of(path: Path) -> list[str]:
    """The columns of a file, in its order."""
    return list(_open(path).schema_arrow.names)


def require_columns(files: Sequence[Path], wanted: Sequence[str]) -> None:
    """Check that each file has one of each of these; `image|images` stands for either.

    Raises:
        ValueError: names the file and what it has.
    """
    for path in files:
        names = columns_of(path)
        for choice in wanted:
            if not set(choice.split("|")) & set(names):
                raise ValueError(
                    f"{path} needs the column {choice.replace('|', ' or ')}, it has {', '.join(names)[:200]}"
                )


def parquet_items(
    files: Sequence[Path], columns: Sequence[str], images: Path | None, wanted: Wanted, first: int = 0, before: int = 0
) -> Iterator[Item]:
    """The rows, in the files' order; those columns that a file has."""
    number = first
    for path in files:
        file = _open(path)
        root = path.parent if images is None else images
        present = [name for name in columns if name in file.schema_arrow.names]
        start = number
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if not wanted.any(number, number + rows):
                number += rows
                continue
            if not present:  # no column is read, but each row counts
                for _ in range(rows):
                    yield Item(number, f"{path.name} row {number - start}", {}, root, before + number - first + 1)
                    number += 1
                continue
            try:
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=present):
                    for row in range(batch.num_rows):
                        payload = _row(batch, row)
                        yield Item(
                            number, f"{path.name} row {number - start}", payload, root, before + number - first + 1
                        )
                        number += 1
            except OSError as error:
                raise ValueError(f"{path}: rows {number - start} and on cannot be read ({error})") from None


def _row(batch: Any, row: int) -> Any:
    try:
        return {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:
        return BadRecord(f"has a text that is not UTF-8 ({error.reason})", BAD_JSON)


def without_nulls(value: Any) -> Any:
    """A struct has all fields of its column, null where a row has none; here they are absent."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def pictures_of(images: Any) -> tuple[str | bytes, ...]:
    """Pictures as parquet has them, each `{"bytes", "path"}` or a path.

    Raises:
        BadRecord: something else.
    """
    entries = [] if images is None else images if isinstance(images, list) else [images]
    return tuple(_picture(entry, place) for place, entry in enumerate(entries))


def _picture(entry: Any, place: int) -> str | bytes:
    if isinstance(entry, dict):
        entry = entry["bytes"] if entry.get("bytes") is not None else entry.get("path")
    if isinstance(entry, str) and "://" in entry[:10]:
        raise BadRecord(
            f"has the picture {entry[:100]!r} by its address; fetch it, and give its file", "picture by address"
        )
    if isinstance(entry, (str, bytes)):
        return entry
    raise BadRecord(f"needs a path or {{bytes, path}} as images[{place}], got {entry!r:.80}", "missing picture")
