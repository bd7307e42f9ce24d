"""`vlm data tokenizer` as a user has it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data.shards import write_shard
from data.tokenizer import Tokenizer

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]


def sentence(number: int) -> str:
    return f"sentence {number * 7919 % 5000} is about the {number % 89} quick brown foxes, ünïcode and 赤い"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    records = [
        (f"{number:05}", {"json": json.dumps({"id": str(number), "content": sentence(number)}).encode()})
        for number in range(2000)
    ]
    write_shard(tmp_path / "shards" / "000000.tar", records)
    return tmp_path / "shards"


def test_it_trains_on_shards_prints_how_it_does_and_is_the_same_again(vlm: Vlm, shards: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        asked = ("data", "tokenizer", "--from", str(shards), "--vocab-size", "600", "--out", str(tmp_path / name))
        code, out, err = vlm(*asked)
        assert code == 0, err
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()
    own, demo = (float(found) for found in re.findall(r"^(?:this|demo) +[\d,]+ +([\d.]+)$", out, re.MULTILINE))
    assert own > demo > 1
    tokenizer = Tokenizer(tmp_path / "one")
    assert tokenizer.vocab_size == 600
    assert all(tokenizer.decode(tokenizer.encode(sentence(number))) == sentence(number) for number in range(5000, 5100))
    assert "reading: 2,000 of 2,000" in err


def test_a_text_that_cannot_be_used_gives_exit_code_1(vlm: Vlm, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9\n")
    code, out, _ = vlm(
        *("data", "tokenizer", "--from", str(shards), str(tmp_path / "bad.txt"), "--vocab-size", "500"),
        *("--out", str(tmp_path / "out"), "--json"),
    )
    result = json.loads(out)
    assert code == 1
    assert result["faults"] == {"bad text": 1}
    assert result["first_fault"].endswith(
        "bad.txt line 1: 'utf-8' codec can't decode byte 0xe9 in position 3: invalid continuation byte"
    )
    assert result["texts"] == 2000


def test_an_existing_tokenizer_and_a_size_that_cannot_be_had_leave_the_folder_as_it_was(
    vlm: Vlm, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _, err = vlm("data", "tokenizer", "--from", str(shards), "--vocab-size", "50000", "--out", str(out))
    assert code == 2
    assert re.search(r"the texts gave [\d,]+ tokens, 50,000 are wanted; add texts", err)
    assert not out.exists()
    out.mkdir()
    (out / "tokenizer.json").write_text("mine")
    code, _, err = vlm("data", "tokenizer", "--from", str(shards), "--out", str(out))
    assert code == 2
    assert "tokenizer.json is there already; remove it" in err
    assert (out / "tokenizer.json").read_text() == "mine"
