"""Bits per byte: what is counted, held to sums done by hand."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from data.sample import Question
from data.shards import write_shard
from eval.run import evaluate, rescore_kept
from eval.task import find_task
from eval.tasks.text import PIECE_BYTES, read_texts, text_task


class Uniform:
    """Every byte is one of `size`, all alike, and the end costs two bits."""

    def __init__(self, size: int) -> None:
        self.size = size

    def fingerprint(self) -> str:
        return f"uniform {self.size}"

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        raise AssertionError("only rates")

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        assert all(question.content == () for question in questions)
        return [[-len(c.encode()) * math.log(self.size) - math.log(4) for c in listed] for listed in candidates]


def test_bits_of_all_tokens_and_of_the_end_over_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("abcd\n")
    (tmp_path / "a.txt").write_text("élan")
    result = evaluate(text_task(tmp_path), Uniform(16), tmp_path / "out")
    # Five bytes each, four bits a byte, two bits for each end.
    bits = (5 * 4 + 2 + 5 * 4 + 2) / 10
    assert result.details["bits_per_byte"] == pytest.approx(bits)
    assert (result.details["bytes"], result.details["texts"], result.details["pieces"]) == (10, 2, 2)
    assert result.score == pytest.approx(1 - bits / 8)
    assert (result.n, result.unparsed, result.blind) == (2, 0, None)
    assert result.chance == result.majority == 0
    assert rescore_kept(tmp_path / "out", text_task(tmp_path)).score == result.score


def test_a_model_worse_than_random_bytes_has_no_negative_score(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd")
    result = evaluate(text_task(tmp_path / "a.txt"), Uniform(1024), tmp_path / "out")
    assert result.score == 0
    assert result.details["bits_per_byte"] == pytest.approx(10.5)


def test_a_long_text_is_cut_at_blanks_and_between_characters(tmp_path: Path) -> None:
    text = "word " * 2000 + "é" * PIECE_BYTES
    (tmp_path / "a.txt").write_text(text)
    pieces = [question.answers[0] for question in read_texts(tmp_path / "a.txt")]
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= PIECE_BYTES for piece in pieces)
    assert [piece[-5:] for piece in pieces[:2]] == ["word "] * 2
    assert len({question.group for question in read_texts(tmp_path / "a.txt")}) == 1


def test_lines_and_shards_of_text_are_read_and_blank_texts_left_out(tmp_path: Path) -> None:
    lines = [{"text": "one"}, {"text": " \n"}, {"text": "two"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [question.answers for question in read_texts(tmp_path / "a.jsonl")] == [("one",), ("two",)]
    records = [(f"{n}", {"json": json.dumps({"id": f"{n}", "content": text}).encode()}) for n, text in enumerate("xy")]
    write_shard(tmp_path / "b.tar", records)
    assert [question.answers for question in read_texts(tmp_path / "b.tar")] == [("x",), ("y",)]
    assert text_task(tmp_path / "b.tar").name == "text/b"


def test_an_answer_is_kept_by_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abcd")
    before = evaluate(text_task(path), Uniform(16), tmp_path / "out").details["bits_per_byte"]
    path.write_text("abcdefgh")
    after = evaluate(text_task(path), Uniform(16), tmp_path / "out").details["bits_per_byte"]
    assert (before, after) == (pytest.approx(4.5), pytest.approx(4.25))


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt cannot be read as UTF-8 text"):
        read_texts(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"b\.txt holds no text to rate"):
        read_texts(tmp_path / "b.txt")
    (tmp_path / "c.jsonl").write_text('{"words": "x"}\n')
    with pytest.raises(ValueError, match=r'c\.jsonl: text 1 is not of the form \{"text"'):
        read_texts(tmp_path / "c.jsonl")
    turns = {"id": "q", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}]}
    write_shard(tmp_path / "d.tar", [("q", {"json": json.dumps(turns).encode()})])
    with pytest.raises(ValueError, match=r"d\.tar: record 'q' has turns or pictures"):
        read_texts(tmp_path / "d.tar")
    for name in ("nothing.jsonl", "nothing.txt", "nothing.tar"):
        with pytest.raises(ValueError, match=name):
            read_texts(tmp_path / name)


@pytest.mark.long
def test_the_demos_held_out_glosses_are_there() -> None:
    questions = find_task("text/demo").questions()
    assert len(questions) == 472
    assert questions[0].answers[0].startswith("well: a deep hole")
