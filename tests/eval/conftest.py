"""Real shards of a few tiny questions, and the smallest answerers that a user could write."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.sample import Question
from data.shards import write_shard

COLOURS = ("red", "green", "blue", "grey")


class PictureReader:
    """Answers from the picture's bytes, `colour 12`; without a picture it goes by a hash of the words."""

    def __init__(self, wrong_every: int = 4, fail_after: int | None = None, name: str = "reader") -> None:
        self.wrong_every, self.fail_after, self.name = wrong_every, fail_after, name
        self.calls = 0
        self.asked: list[Question] = []

    def fingerprint(self) -> str:
        return f"{self.name}-{self.wrong_every}"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        self._called(questions)
        return [f" {self._colour(question)} \nQ: next" for question in questions]

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        self._called(questions)
        seen = [self._colour(question) for question in questions]
        return [[0.1 if c == best else -1 / 3 for c in row] for best, row in zip(seen, candidates, strict=True)]

    def _called(self, questions: Sequence[Question]) -> None:
        if self.fail_after is not None and self.calls >= self.fail_after:
            raise RuntimeError("the machine stopped")
        self.calls += 1
        self.asked += questions

    def _colour(self, question: Question) -> str:
        for part in question.content:
            if part.image is not None:
                colour, number = question.images[part.image].decode().split()
                wrong = int(number) % self.wrong_every == 0
                return COLOURS[(COLOURS.index(colour) + wrong) % 4]
        text = " ".join(part.text or "" for part in question.content)
        return COLOURS[hashlib.sha256(text.encode()).digest()[0] % 4]


def make_record(number: int, picture: bytes | None = None, **fields: Any) -> tuple[str, Mapping[str, bytes]]:
    """Question `number`: which colour? The picture's bytes name it."""
    colour = COLOURS[(number * 7 + number // 5) % 4]
    told: dict[str, Any] = {
        "id": f"q{number}",
        "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": f"Which colour, {number}?"}],
        "choices": list(COLOURS),
        "answer": COLOURS.index(colour),
        "category": "even" if number % 2 == 0 else "odd",
    }
    told |= fields
    members = {"json": json.dumps({name: value for name, value in told.items() if value is not None}).encode()}
    if any(part["type"] == "image" for part in told["content"]):
        members["0.png"] = picture if picture is not None else f"{colour} {number}".encode()
    return f"{number:05d}", members


@pytest.fixture
def colour_shard(tmp_path: Path) -> Path:
    path = tmp_path / "colours.tar"
    write_shard(path, [make_record(number) for number in range(50)])
    return path


@pytest.fixture
def record() -> Callable[..., tuple[str, Mapping[str, bytes]]]:
    return make_record


@pytest.fixture
def reader() -> type[PictureReader]:
    return PictureReader
