"""Records to rows, twice: first their lengths, to plan packed rows by, and then the rows whose turn has come.

In: draws. Out: planned rows, and batches of them. What waits for its turn is small: its tokens, in 5 bytes each, 11 with pictures,
whose bytes are read again when it comes. Read, parsed and tokenised is a record once: twice took a sixth of the time of a
record with a JPEG of 0.4 MP (0.7 of 4.6 ms), and nearly all of a text's.
Bad bytes become faults on the account; an error of the disk or the network is raised, and nobody skips a record for it.
"""

import hashlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32, UInt8

from data.batch import Batch, is_cached, join, row_images
from data.faults import BY_RULE, Fault
from data.image import ImageLayout
from data.order import Draw
from data.overlong import OverlongRule, fit_row
from data.sample import BadRecord, parse_sample
from data.source import Source
from data.text import Picture, Row, sample_row
from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class PlannedRow:
    """A row that waits for its turn."""

    draw: Draw
    part: int  # which of the rows that its record gives
    length: int
    kept: "_KeptRow | None"  # None: it is made anew from its record


@dataclass(frozen=True)
class Parcel:
    """What a worker sends: a batch, or an error; and what happened since its last parcel."""

    batch: Batch | None
    faults: tuple[Fault, ...] = ()
    reads: Mapping[str, int] = field(default_factory=dict)  # records read of each source
    error: str | None = None

    def pin_memory(self) -> "Parcel":
        return replace(self, batch=None if self.batch is None else self.batch.pin_memory())


class RowReader:
    """Reads records as rows; keeps account of reads and of records that cannot be used.

    Args:
        sources: by their numbers in a draw.
        tokenizer: for the texts.
        layout: how many slots a picture takes; None for text alone.
        row_tokens: the most tokens of a row.
        cached: feature keys of pictures that need no pixels.
        overlong: what becomes of a record with more tokens.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        layout: ImageLayout | None,
        row_tokens: int,
        cached: Container[str] = (),
        overlong: OverlongRule = "drop",
    ) -> None:
        self.sources, self.row_tokens = tuple(sources), row_tokens
        self.tokenizer, self._layout, self._cached, self._overlong = tokenizer, layout, cached, overlong
        self._faults: list[Fault] = []
        self._reads: Counter[str] = Counter()

    def plan(self, draw: Draw) -> list[PlannedRow]:
        """The rows of a record; none if it cannot be used. Faults are noted, and records that a rule changes."""
        self._reads[self.sources[draw.source].name] += 1
        try:
            whole = self._whole(draw)
            rows = self._fit(whole)
        except BadRecord as error:
            self._note(draw, error.reason, str(error))
            return []
        if len(whole) > self.row_tokens:
            rule = self._overlong if rows else "drop"
            self._note(draw, BY_RULE[rule], f"has {len(whole)} tokens, row_tokens is {self.row_tokens}")
        return [PlannedRow(draw, part, len(row), _KeptRow.of(row)) for part, row in enumerate(rows)]

    def row(self, planned: PlannedRow) -> Row:
        """The row in full, with the bytes of the pictures that are not cached."""
        kept = planned.kept
        if kept is not None:
            if all(is_cached(picture, self._cached) for picture in kept.pictures):
                return kept.row()
            return kept.row(self.sources[planned.draw.source].shards.read(planned.draw.index)[1])
        row = self._fit(self._whole(planned.draw))[planned.part]
        assert len(row) == planned.length
        return row

    def batch(self, planned: Sequence[PlannedRow], cursor: Any = None) -> Batch | None:
        """The rows as one batch, without those whose pictures cannot be decoded; None if none is left.

        The others stay where they were planned: a bad picture changes nothing but its own row.
        """
        spec = None if self._layout is None else self._layout.spec
        good, images = [], []
        for one in planned:
            row = self.row(one)
            try:
                images.append([] if spec is None else row_images(row, spec, self._cached))
                good.append(row)
            except BadRecord as error:
                self._note(one.draw, error.reason, str(error))
        return join(good, images, cursor) if good else None

    def parcel(self, batch: Batch | None, error: str | None = None) -> Parcel:
        """The batch with the account since the last parcel, which begins anew."""
        parcel = Parcel(batch, tuple(self._faults), dict(self._reads), error)
        self._faults, self._reads = [], Counter()
        return parcel

    def _whole(self, draw: Draw) -> Row:
        key, members = self.sources[draw.source].shards.read(draw.index)
        return sample_row(parse_sample(key, members), self.tokenizer, self._layout, draw.augmentation)

    def _fit(self, row: Row) -> list[Row]:
        return fit_row(row, self.row_tokens, self._overlong)

    def _note(self, draw: Draw, reason: str, message: str) -> None:
        source = self.sources[draw.source]
        shard, position = source.shards.locate(draw.index)
        sha256 = {}
        if reason not in BY_RULE.values():
            members = source.shards.read(draw.index)[1]
            sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
        self._faults.append(Fault(source.name, reason, draw.index, shard.name, shard.key(position), message, sha256))


@dataclass(frozen=True)
class _KeptRow:
    """A row in a third to a seventh of its memory, without the bytes of its pictures."""

    ids: Int32[np.ndarray, " n"]
    marks: UInt8[np.ndarray, " n"]  # 1: the token is a target, 2: it is an image slot
    positions: Int16[np.ndarray, "n 3"] | Int32[np.ndarray, "n 3"] | None  # None: counted
    pictures: tuple[Picture, ...]
    sample_id: str

    @classmethod
    def of(cls, row: Row) -> "_KeptRow":
        marks = row.loss.astype(np.uint8) | row.is_image.astype(np.uint8) << 1
        is_counted = bool((row.positions == np.arange(len(row))[:, None]).all())
        is_short = len(row) == 0 or int(row.positions.max()) <= np.iinfo(np.int16).max
        positions = None if is_counted else row.positions.astype(np.int16 if is_short else np.int32)
        pictures = tuple(replace(picture, data=b"") for picture in row.pictures)
        return cls(row.ids.astype(np.int32), marks, positions, pictures, row.sample_id)

    def row(self, members: Mapping[str, bytes] | None = None) -> Row:
        """The row, with its pictures' bytes from the record's members, or without."""
        if self.positions is None:
            positions = np.arange(len(self.ids), dtype=np.int64)[:, None].repeat(3, axis=1)
        else:
            positions = self.positions.astype(np.int64)
        loss, is_image = (self.marks & 1).astype(np.bool_), (self.marks & 2).astype(np.bool_)
        pictures = self.pictures
        if members is not None:
            pictures = tuple(replace(picture, data=members[picture.name]) for picture in pictures)
        return Row(self.ids.astype(np.int64), loss, is_image, positions, pictures, self.sample_id)
