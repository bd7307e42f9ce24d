"""The figures of records, a few dozen bytes each, so that those of ten million fit into memory.

In: one record at a time, or the tally of others. Out: columns, one number for each record or picture.
Texts and pictures are kept as 8 bytes of a hash: among 10 million, two are taken for the same by chance once in 370,000 runs.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from data.doctor.flaws import Flaws

KINDS = ("caption", "interleaved", "conversation", "text only", "question")
# array.array's letters: q, Q 8 bytes; i, I 4; H 2; B 1.
RECORD_COLUMNS = {
    "number": "q",  # of the record among all
    "kind": "B",  # in KINDS
    "id": "Q",
    "content": "Q",  # of roles, texts and pictures
    "caption": "Q",  # of the text; 0 where the record is no caption
    "characters": "i",
    "text_tokens": "i",
    "slots": "i",
    "answered": "i",  # tokens with loss
    "turns": "H",
    "pictures": "H",
}
PICTURE_COLUMNS = {"key": "Q", "width": "i", "height": "i"}
BYTES_A_RECORD = sum(array(letter).itemsize for letter in RECORD_COLUMNS.values())
BYTES_A_PICTURE = sum(array(letter).itemsize for letter in PICTURE_COLUMNS.values())


@dataclass
class Tally:
    """Everything that is known of the records read so far."""

    records: dict[str, array] = field(default_factory=lambda: {n: array(t) for n, t in RECORD_COLUMNS.items()})
    pictures: dict[str, array] = field(default_factory=lambda: {n: array(t) for n, t in PICTURE_COLUMNS.items()})
    formats: Counter[str] = field(default_factory=Counter)
    bytes_of: Counter[str] = field(default_factory=Counter)  # by kind of member
    ignored: Counter[str] = field(default_factory=Counter)  # members that nobody reads, by extension
    num_read: int = 0  # records, the bad ones among them
    num_bad: int = 0
    num_decoded: int = 0  # pictures
    faults: Flaws = field(default_factory=Flaws)
    warnings: Flaws = field(default_factory=Flaws)
    samples: list[Any] = field(default_factory=list)  # records to show

    def merge(self, other: "Tally") -> None:
        """Take over what another has, behind one's own."""
        for name in ("records", "pictures"):
            for column, values in getattr(other, name).items():
                getattr(self, name)[column].extend(values)
        for one in fields(self):
            mine = getattr(self, one.name)
            if isinstance(mine, Counter):
                mine.update(getattr(other, one.name))
            elif isinstance(mine, int):
                setattr(self, one.name, mine + getattr(other, one.name))
        self.faults.merge(other.faults)
        self.warnings.merge(other.warnings)
        self.samples += other.samples

    def column(self, name: str) -> Any:
        """A record's column, or one of pictures as `picture.NAME`, without a copy."""
        owner, _, column = name.rpartition(".")
        values = self.pictures[column] if owner else self.records[name]
        return np.frombuffer(values, dtype=values.typecode) if len(values) else np.zeros(0, dtype=values.typecode)
