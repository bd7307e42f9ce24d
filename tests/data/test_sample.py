import json
from typing import Any

import pytest

from data.sample import BadRecord, Message, Part, parse_question, parse_sample, strict_json


def members(fields: Any, **pictures: bytes) -> dict[str, bytes]:
    return {"json": json.dumps(fields).encode(), **{name.replace("_", "."): data for name, data in pictures.items()}}


TEXT = {"type": "text", "text": "a cat"}


def test_a_document_keeps_its_parts_in_order() -> None:
    content = [TEXT, {"type": "image", "image": "0.PNG"}, TEXT]
    sample = parse_sample(
        "k", {"json": json.dumps({"id": "7", "content": content}).encode(), "0.png": b"x", "cls": b""}
    )
    assert sample.id == "7"
    assert sample.content == (Part(text="a cat"), Part(image="0.png"), Part(text="a cat"))
    assert sample.images == {"0.png": b"x"}


def test_a_conversation_keeps_its_turns() -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": [TEXT]}]
    sample = parse_sample("k", members({"messages": turns}))
    assert sample.messages == (
        Message("user", (Part(text="hello"),)),
        Message("assistant", (Part(text="a cat"),)),
    )
    assert sample.content is None


@pytest.mark.parametrize("pair", [{"txt": b"a cat"}, {"json": b'{"caption": "a cat", "width": 3}'}])
def test_pairs_are_read_as_img2dataset_writes_them(pair: dict[str, bytes]) -> None:
    assert parse_sample("k", {"jpg": b"x", **pair}).content == (Part(image="jpg"), Part(text="a cat"))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "needs content or messages"),
        ({"json": b"[1]"}, "JSON object"),
        ({"json": b'{"id": NaN}'}, "NaN"),
        ({"json": b'{"id": 1e999}'}, "too large"),
        ({"json": b'{"id": "a", "id": "b"}'}, "twice"),
        ({"json": b"[" * 100_000}, "nested"),
        ({"json": b'{"content": "\xff"}'}, "UTF-8"),
        ({"json": b'{"content": "\\ud800"}'}, "surrogate"),
        ({"json": b'{"id": 5' + b"0" * 5000 + b"}"}, "cannot be read"),
        (members({"id": 7, "content": "x"}), "text as id"),
        (members({"content": "x", "messages": []}), "both"),
        (members({"content": []}), "nothing"),
        (members({"content": [{"type": "video"}]}), r"content\[0\]"),
        (members({"content": [{"type": "image", "image": "1.png"}]}, **{"0_png": b""}), "names the picture"),
        (members({"content": "x"}, **{"0_png": b""}), "no part names it"),
        (members({"messages": [{"role": "human", "content": "x"}]}), "human"),
        (members({"messages": [{"role": "user", "content": "x"}]}), "assistant"),
        ({"jpg": b"", "txt": b"\xff"}, "UTF-8"),
        ({"0.jpg": b"", "1.jpg": b"", "txt": b"x"}, "2 pictures"),
        ({"jpg": b""}, "caption"),
    ],
)
def test_a_bad_record_is_named_with_its_fault(record: dict[str, bytes], words: str) -> None:
    with pytest.raises(BadRecord, match=f"'some/key'.*{words}"):
        parse_sample("some/key", record)


def test_json_beyond_the_size_limit_is_refused_unread() -> None:
    with pytest.raises(ValueError, match="limit"):
        strict_json(b" " * (16 * 2**20 + 1))


def test_a_question_knows_its_truth_and_its_blind_twin() -> None:
    fields = {"id": "q", "content": [{"type": "image", "image": "0.png"}, TEXT], "choices": ["cat", "dog"], "answer": 1}
    question = parse_question("k", members({**fields, "group": "g", "meta": {"a": 1}}, **{"0_png": b"x"}))
    assert question.truth == "dog"
    assert question.group == "g"
    blind = question.without_images()
    assert (blind.content, blind.images, blind.truth) == ((Part(text="a cat"),), {}, "dog")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"answers": ["x"]}, "content"),
        ({"content": "x"}, "nothing to score"),
        ({"content": "x", "choices": ["a", "b"]}, "answer"),
        ({"content": "x", "choices": ["a", "b"], "answer": 2}, "below"),
        ({"content": "x", "choices": ["a", "b"], "answer": True}, "below"),
        ({"content": "x", "choices": ["a", "a"], "answer": 0}, "twice"),
        ({"content": "x", "answers": ["a"], "answer": 0}, "no choices"),
        ({"content": "x", "answers": "a"}, "list of texts"),
        ({"content": "x", "answers": ["a"], "box": [0, 0, 0, 1]}, "area"),
        ({"content": "x", "answers": ["a"], "category": 1}, "category"),
        ({"content": "x", "answers": ["a"], "meta": []}, "meta"),
    ],
)
def test_a_question_that_cannot_be_scored_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecord, match=words):
        parse_question("k", members(fields))
