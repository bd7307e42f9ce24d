"""Train the demo's byte-level BPE on the texts of the training records.

In: the expanded training sets. Out: `tokenizer/tokenizer.json`. Every byte has a token, so no text is lost.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from data.shards import open_shards
from data.tokenizer_training import record_texts, train_bpe

VOCABULARY = 4096


def training_texts(folder: Path) -> Iterator[str]:
    for source in ("emoji", "presence", "scenes", "clipart", "text"):
        shards = open_shards(folder / "train" / source)
        for index in range(len(shards)):
            yield from record_texts(json.loads(shards.read(index)[1]["json"]))


def build_tokenizer(folder: Path, assets: Path) -> None:
    """Train on the sets in `folder` and write the tokenizer's file."""
    tokenizer = train_bpe(training_texts(folder), VOCABULARY)
    (assets / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(assets / "tokenizer/tokenizer.json"), pretty=False)
