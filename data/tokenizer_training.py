"""A byte-level BPE of one's own: learned from texts, with the project's special tokens, and checked.

In: texts, of shards or of plain files. Out: a `tokenizers.Tokenizer` that `data.tokenizer.Tokenizer` reads. Every byte has a token, so no text
is lost. The same texts in the same order give the same file.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from data.sample import MAX_JSON_BYTES, BadRecord, parse_sample, strict_json
from data.shards import open_shards
from data.tokenizer import SPECIAL_TOKENS, Tokenizer

SMALLEST = len(SPECIAL_TOKENS) + 256
LARGEST = 1_000_000
TEXT_SUFFIXES = (".txt", ".jsonl")
HELD_OUT_ONE_IN = 50  # texts, chosen by their hash
HELD_OUT_BYTES = 10_000_000


def train_bpe(texts: Iterable[str], vocab_size: int, show_progress: bool = False) -> tokenizers.Tokenizer:
    """Learn the merges.

    Raises:
        ValueError: the size cannot be had, or the texts do not give as many tokens.
    """
    if not SMALLEST <= vocab_size <= LARGEST:
        raise ValueError(
            f"a vocabulary has {SMALLEST} tokens at least (256 bytes and {len(SPECIAL_TOKENS)} special tokens) and {LARGEST:,} at "
            f"most, got {vocab_size:,}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the texts gave {tokenizer.get_vocab_size():,} tokens, {vocab_size:,} are wanted; add texts")
    return tokenizer


def record_texts(fields: Mapping[str, Any]) -> Iterator[str]:
    """The texts of one record as stored, turn by turn."""
    for turn in fields.get("messages", [{"content": fields.get("content", [])}]):
        content = turn["content"]
        yield from [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


@dataclass
class Corpus:
    """Texts of several sources, one after another; a small part of them, chosen by content, is held out.

    Args:
        sources: shards as `open_shards` takes them, or .txt and .jsonl files, or folders of these.
        limit: texts of each source at most; None: all.

    Raises:
        ValueError: a source is not there, or has no texts.
    """

    sources: tuple[str, ...]
    limit: int | None = None
    num_texts: int = 0
    num_bytes: int = 0
    held_out: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    first_fault: str | None = None

    def __post_init__(self) -> None:
        for source in self.sources:
            if text_files(source) is None:
                open_shards(source)

    def training_texts(self, show: Any) -> Iterator[str]:
        """Yield what is learned from; what is held out is kept in `held_out`, up to its limit of bytes.

        Args:
            show: called with (records or bytes of the source read, all of them).
        """
        held_bytes = 0
        for source in self.sources:
            for text in islice(self._texts(source, show), self.limit):
                size = len(text.encode("utf-8"))
                self.num_texts += 1
                self.num_bytes += size
                if is_held_out(text):
                    if held_bytes + size <= HELD_OUT_BYTES:
                        held_bytes += size
                        self.held_out.append(text)
                elif text:
                    yield text

    def _texts(self, source: str, show: Any) -> Iterator[str]:
        files = text_files(source)
        if files is None:
            yield from self._shard_texts(source, show)
            return
        total, before = sum(file.stat().st_size for file in files), 0
        for file in files:
            for text, position in self._file_texts(file):
                show(before + position, total)
                yield text
            before += file.stat().st_size

    def _shard_texts(self, source: str, show: Any) -> Iterator[str]:
        shards = open_shards(source)
        for index in range(len(shards)):
            key, members = shards.read(index)
            try:
                sample = parse_sample(key, members)
            except BadRecord as fault:
                self._note(fault.reason, f"{source}: {fault}")
                continue
            turns = [sample.content] if sample.messages is None else [turn.parts for turn in sample.messages]
            for parts in turns:
                yield from [part.text for part in parts or () if part.text is not None]
            show(index + 1, len(shards))

    def _file_texts(self, file: Path) -> Iterator[tuple[str, int]]:
        """Line by line: a .txt as it is, a .jsonl by its `text`, `content` or `messages`."""
        position = 0
        with file.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_JSON_BYTES), b""), start=1):
                position += len(line)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                try:
                    for text in _line_texts(line, file.suffix):
                        yield text, position
                except ValueError as error:
                    self._note("bad text", f"{file} line {number}: {error}")

    def _note(self, reason: str, message: str) -> None:
        self.faults[reason] += 1
        self.first_fault = self.first_fault or message


def is_held_out(text: str) -> bool:
    """By content, so that no text is on both sides."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()[0] * HELD_OUT_ONE_IN < 256


def text_files(source: str) -> list[Path] | None:
    """The plain files of a source, in the order of their names; None if it is shards.

    Raises:
        ValueError: a folder with neither.
    """
    path = Path(source)
    if path.suffix.lower() in TEXT_SUFFIXES:
        if not path.is_file():
            raise ValueError(f"cannot read {source}: there is no such file")
        return [path]
    if not path.is_dir() or (path / "dataset.json").exists() or any(path.glob("*.tar")):
        return None
    found = sorted((file for file in path.rglob("*") if file.suffix.lower() in TEXT_SUFFIXES), key=Path.as_posix)
    if not found:
        raise ValueError(f"{source} has neither shards (*.tar) nor files that end in {', '.join(TEXT_SUFFIXES)}")
    return found


def _line_texts(line: bytes, suffix: str) -> list[str]:
    if suffix.lower() == ".txt":
        return [line.decode("utf-8")]
    if not line.strip():
        return []
    fields = strict_json(line)
    if not isinstance(fields, dict) or not fields.keys() & {"text", "content", "messages"}:
        raise ValueError("needs an object with text, content or messages")
    try:
        found = [fields["text"]] if "text" in fields else list(record_texts(fields))
    except (KeyError, TypeError, AttributeError):
        found = [None]
    if not all(isinstance(text, str) for text in found):
        raise ValueError("needs texts as text, content or messages")
    return found


@dataclass(frozen=True)
class Measure:
    """How a tokenizer does on texts."""

    vocab_size: int
    bytes_per_token: float


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> Measure | None:
    """Bytes of UTF-8 that a token stands for on average; None without texts.

    Raises:
        ValueError: a text does not come back as it was.
    """
    num_bytes = num_tokens = 0
    for text in texts:
        ids = tokenizer.encode(text)
        if tokenizer.decode(ids) != text:
            raise ValueError(f"the text {text[:80]!r} does not come back from its tokens")
        num_bytes += len(text.encode("utf-8"))
        num_tokens += len(ids)
    return Measure(tokenizer.vocab_size, num_bytes / num_tokens) if num_tokens else None
