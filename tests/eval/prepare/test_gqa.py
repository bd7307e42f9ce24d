import json
from collections.abc import Callable
from typing import Any

import pytest


def row(image: str, question: str, answer: str, structural: str, semantic: str) -> dict[str, Any]:
    types = {"structural": structural, "semantic": semantic, "detailed": f"{semantic}Detail"}
    return {"imageId": image, "question": question, "answer": answer, "fullAnswer": "", "types": types}


ROWS = {
    "201": row("n1", "Is it a t-shirt?", "yes", "verify", "obj"),
    "202": row("n1", "What is worn?", "t-shirt", "query", "obj"),
    "203": row("n2", "What is it?", "dog", "query", "cat"),
}


def test_case_and_punctuation_do_not_count_and_the_official_equality_stands_beside(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    bench.write("questions1.2/testdev_balanced_questions.json", json.dumps(ROWS))
    for number in (1, 2):
        bench.write(f"images/n{number}.jpg", picture(number, "JPEG"))
    found = bench.prepare("gqa/testdev")
    assert (found["202"].category, found["202"].group) == ("query", "n1")
    result, model = bench.ask("gqa/testdev", {"201": "yes", "202": "Tshirt.", "203": "cat"})
    assert result.score == pytest.approx(2 / 3)
    assert result.details["exact"] == pytest.approx(1 / 3)
    assert result.details["by_category"]["query"] == {"score": 0.5, "n": 2}
    assert result.details["by_semantic_type"]["obj"] == {"score": 1.0, "n": 2}
    assert shown(model.asked["203"]) == "[2]What is it?\nAnswer the question using a single word or phrase."


def test_the_two_parquet_folders_are_joined(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.parquet(
        "testdev_balanced_instructions/testdev-00000-of-00001.parquet",
        [{"id": name, **one} for name, one in ROWS.items()],
    )
    with pytest.raises(ValueError, match="has no testdev_balanced_images/testdev-"):
        bench.prepare("gqa/testdev")
    images = "testdev_balanced_images/testdev-00000-of-00001.parquet"
    bench.parquet(images, [{"id": "n1", "image": {"bytes": picture(1), "path": None}}])
    with pytest.raises(ValueError, match="has no picture n2 in testdev_balanced_images"):
        bench.prepare("gqa/testdev")
    bench.parquet(images, [{"id": f"n{n}", "image": {"bytes": picture(n), "path": None}} for n in (1, 2)])
    assert list(bench.prepare("gqa/testdev")) == ["201", "202", "203"]
