import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from data.convert.conversion import Conversion
from data.convert.settings import Settings
from data.sample import Sample, parse_sample
from data.shards import open_shards

SETTINGS = ("images", "captions", "skip_uncaptioned", "together", "ask", "benchmark")


def quiet(what: str) -> Callable[[int, int], None]:
    return lambda done, total: None


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a conversion into `tmp_path / "out"`; gives its summary."""

    def run(format: str, *sources: Path, **options: Any) -> dict[str, Any]:
        settings = Settings(sources=sources, **{name: options.pop(name) for name in SETTINGS if name in options})
        return Conversion(format=format, settings=settings, **{"out": tmp_path / "out", **options}).run(quiet)

    return run


@pytest.fixture
def samples(tmp_path: Path) -> Callable[..., list[Sample]]:
    """All records of the output, parsed."""

    def read(folder: Path | None = None) -> list[Sample]:
        shards = open_shards(folder or tmp_path / "out")
        return [parse_sample(*shards.read(number)) for number in range(len(shards))]

    return read


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """The lines of faults.jsonl."""

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "out" / "faults.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def write_lines() -> Callable[[Path, Iterable[Any]], Path]:
    """Writes JSONL; gives its path."""

    def write(path: Path, records: Iterable[Any]) -> Path:
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
        return path

    return write
