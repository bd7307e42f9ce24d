import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.shards import write_shard
from data.tokenizer import SPECIAL_TOKENS, Tokenizer
from data.tokenizer_training import Corpus, is_held_out, measure, train_bpe


def nothing(done: int, total: int) -> None:
    """Progress that nobody sees."""


def words(count: int = 3000) -> list[str]:
    return [f"the {number * 7919 % 1000} quick brown foxes of {number % 97}\n" for number in range(count)]


def test_a_trained_tokenizer_is_read_loses_nothing_and_is_the_same_again() -> None:
    first, again = (train_bpe(words(), 400).to_str() for _ in range(2))
    assert first == again
    tokenizer = Tokenizer.from_text(first, "mine", {})
    assert tokenizer.vocab_size == 400
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == list(range(7))
    for text in ("", " two  spaces ", "é\u2028\x00\r\n", "👩‍🌾 赤い", "<|image|> is text <|end|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert not set(tokenizer.encode(text)) & set(range(7))


def test_sizes_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has 263 tokens at least .* got 262"):
        train_bpe(words(), 262)
    with pytest.raises(ValueError, match=r"the texts gave \d+ tokens, 5,000 are wanted; add texts"):
        train_bpe(["one text"], 5000)


def test_texts_come_from_documents_conversations_and_plain_files(tmp_path: Path, make: SimpleNamespace) -> None:
    turns = [
        {"role": "user", "content": "asked"},
        {"role": "assistant", "content": [{"type": "text", "text": "answered"}]},
    ]
    records = [
        make.picture_record(1),
        ("b", {"json": json.dumps({"messages": turns}).encode()}),
        ("c", {"txt": b"alone"}),
    ]
    write_shard(tmp_path / "shards" / "a.tar", records)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_bytes("\ufeffone\ntwo".encode())
    (tmp_path / "plain" / "b.jsonl").write_text(
        '{"text": "three"}\n\n' + json.dumps({"messages": turns}) + '\n{"content": "four"}\n'
    )
    corpus = Corpus((str(tmp_path / "shards"), str(tmp_path / "plain")))
    found = [*corpus.training_texts(nothing), *corpus.held_out]
    texts = ["a picture of thing 1", "asked", "answered", "alone", "one\n", "two", "three", "asked", "answered", "four"]
    assert sorted(found) == sorted(texts)
    assert (corpus.num_texts, corpus.num_bytes) == (10, sum(map(len, texts)))
    assert corpus.faults == {}


def test_held_out_texts_are_some_by_content_and_never_learned_from(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(words()))
    corpus = Corpus((str(tmp_path / "a.txt"),))
    learned = set(corpus.training_texts(nothing))
    assert 20 <= len(corpus.held_out) <= 110  # 1 in 50 of 3,000, but texts are alike
    assert not learned & set(corpus.held_out)
    assert all(is_held_out(text) for text in corpus.held_out)
    assert len(list(Corpus((str(tmp_path / "a.txt"),), limit=10).training_texts(nothing))) <= 10


def test_bytes_per_token_are_counted_over_all_texts() -> None:
    tokenizer = Tokenizer.from_text(train_bpe(words(), 300).to_str(), "mine", {})
    texts = ["the quick", "é"]
    found = measure(tokenizer, texts)
    assert found is not None
    assert found.bytes_per_token == 11 / sum(len(tokenizer.encode(text)) for text in texts)
    assert measure(tokenizer, []) is None


def test_what_cannot_be_read_is_counted_and_named(tmp_path: Path, make: SimpleNamespace) -> None:
    write_shard(tmp_path / "a.tar", [("a", {"json": b"{"}), ("b", {"txt": b"fine"})])
    (tmp_path / "b.txt").write_bytes(b"fine\ncaf\xe9\n")
    (tmp_path / "c.jsonl").write_text('{"words": 1}\n{"text": 5}\n{"messages": [{}]}\n{"text": "fine"}\n')
    corpus = Corpus(tuple(str(tmp_path / name) for name in ("a.tar", "b.txt", "c.jsonl")))
    assert len([*corpus.training_texts(nothing), *corpus.held_out]) == 3
    assert corpus.faults == {"bad JSON": 1, "bad text": 4}
    assert corpus.first_fault is not None
    assert "record 'a' cannot be read" in corpus.first_fault


def test_sources_that_are_not_there_are_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, told in {
        "gone.txt": "there is no such file",
        "gone": "No such file",
        "empty": "has neither shards",
    }.items():
        with pytest.raises(ValueError, match=told):
            Corpus((str(tmp_path / name),))
