"""Records of every kind for the check: text alone, one picture, several pictures.

In: opened shards, a tokenizer, a layout. Out: rows as the data would write them. Real records come first; kinds that the
shards do not have are made of those that they have, and pictures of noise where there are none at all.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from data.image import ImageLayout
from data.sample import BadRecord, Part, Sample, parse_sample
from data.shards import ShardSet
from data.text import Row, sample_row
from data.tokenizer import Tokenizer

Kind = Literal["text alone", "one picture", "several pictures"]
KINDS: tuple[Kind, ...] = ("text alone", "one picture", "several pictures")
READS = 300  # records of the shards that are looked at
SIDES_PX = (24, 160)  # of a made picture


@dataclass(frozen=True)
class Record:
    """A document as tokens, and the seed of its own noise in training."""

    row: Row
    kind: Kind
    seed: int

    @property
    def name(self) -> str:
        return self.row.sample_id


def find_records(
    sources: Sequence[ShardSet],
    tokenizer: Tokenizer,
    layout: ImageLayout | None,
    *,
    of_each: int = 3,
    max_tokens: int = 1024,
    seed: int = 0,
) -> list[Record]:
    """So many records of each kind that the model can take.

    Args:
        layout: None for a model without an encoder: then of the words of records alone.
        max_tokens: longer records are left aside.

    Raises:
        ValueError: no record can be used, or a picture alone takes more tokens than that.
    """
    chance = np.random.default_rng(seed)
    found: dict[Kind, list[Row]] = {kind: [] for kind in KINDS}
    plain: list[Sample] = []  # text alone
    pictured: list[Sample] = []
    for sample in _drawn(sources, chance):
        if sample.images and layout is not None:
            pictured.append(sample)
            _keep(found, sample, tokenizer, layout, of_each, max_tokens)
        if (words := _words(sample)) is not None:
            plain.append(words)
            if layout is None or not sample.images:
                _keep(found, words, tokenizer, layout, of_each, max_tokens)
        if all(len(rows) >= of_each for rows in found.values()):
            break
    for sample in plain:  # the words of records with pictures, where none is text alone
        _keep(found, sample, tokenizer, layout, of_each, max_tokens)
    if layout is not None:
        pictured = pictured or [_with_noise(sample, chance) for sample in plain]
        for turn in range(8 * of_each):
            if not pictured:
                break
            _keep(found, pictured[turn % len(pictured)], tokenizer, layout, of_each, max_tokens)
            _keep(found, _joined(pictured, turn, chance), tokenizer, layout, of_each, max_tokens)
    if not any(found.values()):
        raise ValueError(
            f"the data have no record of at most {max_tokens} tokens that this model could take; "
            "give others with --data, or more with --tokens"
        )
    numbered = [(kind, row) for kind, rows in found.items() for row in rows]
    return [Record(row, kind, place) for place, (kind, row) in enumerate(numbered)]


def _drawn(sources: Sequence[ShardSet], chance: np.random.Generator) -> list[Sample]:
    """Samples from all sources in turn, at random places; bad records are the data's business, not this check's."""
    places = [chance.permutation(len(source))[:READS].tolist() for source in sources]
    samples: list[Sample] = []
    for turn in range(max((len(place) for place in places), default=0)):
        for source, place in zip(sources, places, strict=True):
            if turn < len(place) and len(samples) < READS:
                key, members = source.read(place[turn])
                try:
                    samples.append(parse_sample(key, members))
                except BadRecord:
                    continue
    return samples


def _keep(
    found: Mapping[Kind, list[Row]],
    sample: Sample,
    tokenizer: Tokenizer,
    layout: ImageLayout | None,
    of_each: int,
    max_tokens: int,
) -> None:
    """Add the sample to its kind, if it is wanted and can be used."""
    kind: Kind = KINDS[min(2, len(_images(sample)))]
    if len(found[kind]) >= of_each or sample.id in [row.sample_id for row in found[kind]]:
        return
    try:
        row = sample_row(sample, tokenizer, layout)
    except BadRecord:
        return
    if len(row) <= max_tokens:
        found[kind].append(row)


def _parts(sample: Sample) -> tuple[Part, ...]:
    if sample.messages is None:
        return sample.content or ()
    return tuple(part for message in sample.messages for part in message.parts)


def _images(sample: Sample) -> list[str]:
    return [part.image for part in _parts(sample) if part.image is not None]


def _words(sample: Sample) -> Sample | None:
    """The sample without its pictures; None if no words are left."""
    if not sample.images:
        return sample
    words = tuple(part for part in _parts(sample) if part.text)
    name = f"{sample.id}, words alone"
    return Sample(sample.key, name, words, None, {}) if words else None


def _joined(samples: Sequence[Sample], turn: int, chance: np.random.Generator) -> Sample:
    """Two or three samples as one document, pictures and words in turn."""
    chosen = [samples[int(place)] for place in chance.integers(0, len(samples), 2 + turn % 2)]
    images: dict[str, bytes] = {}
    parts: list[Part] = []
    for number, sample in enumerate(chosen):
        images |= {f"{number}.{name}": data for name, data in sample.images.items()}
        parts += [part if part.image is None else Part(image=f"{number}.{part.image}") for part in _parts(sample)]
    return Sample(f"joined-{turn}", " + ".join(sample.id for sample in chosen), tuple(parts), None, images)


def _with_noise(sample: Sample, chance: np.random.Generator) -> Sample:
    """The sample with a picture of noise before its words."""
    height, width = (int(side) for side in chance.integers(*SIDES_PX, 2))
    file = io.BytesIO()
    Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    parts = (Part(image="made.png"), *_parts(sample))
    return replace(sample, content=parts, messages=None, images={"made.png": file.getvalue()})
