"""Small releases in the official layouts, made here, and a model that says what a test wants."""

import importlib
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.sample import Question
from eval.prepare.write import prepare
from eval.run import evaluate
from eval.score import Result
from eval.task import Answer, Task, find_task, with_prompt


def draw(number: int, kind: str = "PNG") -> bytes:
    """A picture of its own for each number."""
    file = io.BytesIO()
    Image.new("RGB", (8 + number, 6), (number * 9 % 256, 40, 200)).save(file, kind)
    return file.getvalue()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Says:
    """Gives each question the text under its id, and keeps what it was asked."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.asked: dict[str, Question] = {}

    def fingerprint(self) -> str:
        return f"says {sorted(self.texts.items())}"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        self.asked |= {question.id: question for question in questions}
        return [Answer(self.texts[question.id]) for question in questions]

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        raise AssertionError("only writes")


class Bench:
    """A release on its way to a score."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release, self.benchmarks, self.out = folder / "release", folder / "benchmarks", folder / "out"
        self.release.mkdir()
        monkeypatch.setenv("CONCEPTVLM_BENCHMARKS", str(self.benchmarks))

    def write(self, name: str, data: bytes | str) -> None:
        path = self.release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    def parquet(self, name: str, rows: list[dict[str, Any]]) -> None:
        arrow, parquet = (importlib.import_module(module) for module in ("pyarrow", "pyarrow.parquet"))
        path = self.release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(rows), path)

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        columns = list(rows[0])
        lines = ["\t".join(columns), *("\t".join(str(row[column]) for column in columns) for row in rows)]
        self.write(name, "\n".join(lines) + "\n")

    def prepare(self, task: str) -> dict[str, Question]:
        prepare(task, self.release, self.benchmarks)
        again = self.benchmarks.with_name("again")
        prepare(task, self.release, again)
        assert files_of(again / task) == files_of(self.benchmarks / task)  # of every converter: the same bytes
        shutil.rmtree(again)
        return {question.id: question for question in find_task(task).questions()}

    def ask(self, task: str, texts: Mapping[str, str], prompt: str | None = None) -> tuple[Result, Says]:
        found: Task = find_task(task)
        model = Says(texts)
        return evaluate(found if prompt is None else with_prompt(found, prompt), model, self.out, blind_limit=0), model


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return draw


@pytest.fixture
def shown() -> Callable[[Question], str]:
    """What a model reads, pictures by their sizes."""

    def read(question: Question) -> str:
        def part_of(image: str) -> str:
            with Image.open(io.BytesIO(question.images[image])) as opened:
                return f"[{opened.width - 8}]"

        return "".join(part.text if part.image is None else part_of(part.image) for part in question.content)  # type: ignore[misc]

    return read
