"""Train the demo's byte-level BPE on the texts of the training records.

In: the expanded training sets. Out: `tokenizer/tokenizer.json`. Every byte has a token, so no text is lost.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from data.shards import open_shards
from data.tokenizer import SPECIAL_TOKENS

VOCABULARY = 4096


def texts(fields: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of one record, turn by turn."""
    for turn in fields.get("messages", [{"content": fields.get("content", [])}]):
        content = turn["content"]
        yield from [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def training_texts(folder: Path) -> Iterator[str]:
    for source in ("emoji", "presence", "scenes", "clipart", "text"):
        shards = open_shards(folder / "train" / source)
        for index in range(len(shards)):
            yield from texts(json.loads(shards.read(index)[1]["json"]))


def build_tokenizer(folder: Path, assets: Path) -> None:
    """Train on the sets in `folder` and write the tokenizer's file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(folder), trainer=trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the texts gave {tokenizer.get_vocab_size()} tokens, {VOCABULARY} are wanted; add texts")
    (assets / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(assets / "tokenizer/tokenizer.json"), pretty=False)
