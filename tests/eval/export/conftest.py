"""Questions of every shape, as shards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.sample import Question
from data.shards import write_shard
from eval.task import Answer

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "c9fe92ef0000000049454e44ae426082"
)
TEXT, IMAGE = {"type": "text", "text": "Which?"}, {"type": "image", "image": "0.png"}


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Path]:
    """A shard of these records; what is not given is a choice of two with one picture."""

    def write(*records: dict[str, Any]) -> Path:
        path = tmp_path / "some.tar"
        told = []
        for number, fields in enumerate(records):
            record = {
                "id": f"q{number}",
                "content": [IMAGE, TEXT],
                "choices": ["a", "b"],
                "answer": number % 2,
            } | fields
            record = {name: value for name, value in record.items() if value is not None}
            names = {part["image"] for part in record["content"] if part["type"] == "image"}
            members = {"json": json.dumps(record).encode()}
            told.append((f"{number:04}", members | dict.fromkeys(names, PNG)))
        write_shard(path, told)
        return path

    return write


class Parrot:
    """Says what it was told to."""

    def __init__(self, said: list[str]) -> None:
        self.said = dict(enumerate(said))

    def fingerprint(self) -> str:
        return "parrot"

    def generate(self, questions: list[Question], max_new_tokens: int) -> list[Answer]:
        return [Answer(self.said[int(question.id.removeprefix("q"))]) for question in questions]

    def score(self, questions: list[Question], candidates: list[tuple[str, ...]]) -> list[list[float]]:
        return [
            [-float(len(question.id) * 7 % (place + 3)) for place, _ in enumerate(c)]
            for question, c in zip(questions, candidates, strict=True)
        ]


@pytest.fixture
def parrot() -> type[Parrot]:
    return Parrot
