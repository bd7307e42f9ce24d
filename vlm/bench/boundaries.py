"""Where concepts end in the sequences of a measurement: regularly, or as a trained model ends them.

In: tokens per concept, or a trained model. Out: a `Pattern`, which repeats for as long as a sequence is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

ROW_TOKENS = 2048  # of one call of the trained model
MOST_COMPRESSION = 1000  # of a regular pattern, whose length grows with it


@dataclass(frozen=True, eq=False)
class Pattern:
    """True where a token closes a concept; after its end it begins again."""

    name: str
    closes: Bool[Tensor, " p"]

    @classmethod
    def regular(cls, compression: float) -> "Pattern":
        """Concepts of `compression` tokens, which need be no whole number: of 1.5, every third token closes none.

        Raises:
            ValueError: it is below 1, above `MOST_COMPRESSION`, or no number.
        """
        if not 1 <= compression <= MOST_COMPRESSION:
            raise ValueError(f"a concept has 1 to {MOST_COMPRESSION} tokens on average, got {compression:g}")
        ratio = Fraction(compression).limit_denominator(1000)
        place = torch.arange(ratio.numerator)
        closes = (place + 1) * ratio.denominator // ratio.numerator > place * ratio.denominator // ratio.numerator
        return cls(f"R={compression:g}", closes)

    @classmethod
    def of_model(cls, folder: str | Path, num_tokens: int = 16_384) -> "Pattern":
        """The boundaries that a trained model finds in the demo's held-out texts and pictures, one after another.

        A document's first token closes in any model; it is left out, as one long sequence has few of them.

        Raises:
            ValueError: the folder is no model folder, or its model has no chunker.
        """
        from vlm.inference.load import load_model
        from vlm.model_folder import require_model_folder

        require_model_folder(Path(folder))
        model = load_model(folder, "cpu")
        if model.backbone.chunker is None:
            raise ValueError(f"the model of {folder} has no chunker (chunk: null), and so no boundaries to take")
        found: list[Tensor] = []
        with torch.inference_mode():
            for batch in _held_out(model):
                chunks = model(batch).chunks
                first = torch.tensor(batch.lengths).cumsum(0) - torch.tensor(batch.lengths)
                decided = torch.ones(len(batch.ids), dtype=torch.bool).index_fill(0, first, False)
                found.append(chunks.closes[decided])
                if sum(len(part) for part in found) >= num_tokens:
                    break
        # A clone: tensors of inference mode cannot be changed in place later.
        return cls(Path(folder).name, torch.cat(found)[:num_tokens].clone())

    @property
    def compression(self) -> float:
        """Tokens per concept."""
        return len(self.closes) / max(1, int(self.closes.sum()))

    def rows(self, num_sequences: int, first: int, count: int) -> Bool[Tensor, "s count"]:
        """Tokens `first` to `first + count` of each sequence.

        Sequences begin at places of the pattern that are spread over it, neighbours at different ones: in service they
        are not in step, and a batch that closes all at once would do the concept layers' work in every R-th step alone.
        """
        shift = torch.arange(num_sequences)[:, None] * max(1, len(self.closes) // num_sequences)
        return self.closes[(shift + torch.arange(first, first + count)) % len(self.closes)]


def _held_out(model) -> Iterator:  # type: ignore[no-untyped-def]
    """Packed batches of the demo's validation records, its sources in turn."""
    from data.assets.expand import demo_folder
    from data.batch import collate
    from data.sample import parse_sample
    from data.shards import open_shards
    from data.text import sample_row

    sources = [open_shards(folder) for folder in sorted((demo_folder() / "val").iterdir())]
    rows, tokens = [], 0
    for index in range(max(len(source) for source in sources)):
        for source in sources:
            if index >= len(source):
                continue
            sample = parse_sample(*source.read(index))
            if sample.images and model.layout is None:
                continue
            rows.append(sample_row(sample, model.tokenizer, model.layout))
            tokens += len(rows[-1])
            if tokens >= ROW_TOKENS:
                yield collate(rows, None if model.layout is None else model.layout.spec)
                rows, tokens = [], 0
    if rows:
        yield collate(rows, None if model.layout is None else model.layout.spec)
