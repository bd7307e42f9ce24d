"""Records left out: counted by source and reason, listed in a file, and too many of them an error.

In: what the readers noted. Out: warnings, counts, lines of `quarantine.jsonl`, or the error that stops a run. A fault is a
property of bytes: the same record is left out in every epoch and by every process, and is counted and listed once.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from data.quarantine import Quarantine

log = logging.getLogger(__name__)
# What becomes of records that are too long is the user's rule and no fault: counted, not listed, and never too many.
BY_RULE = {"drop": "longer than row_tokens", "cut": "cut to row_tokens", "split": "split at row_tokens"}
MAX_FAULTY, MIN_READS = 0.01, 1000
NAMED = 1000  # records of a source and a reason that are kept by name; all faults are in the file


@dataclass(frozen=True)
class Fault:
    """A record that was left out, or changed by a rule, and why."""

    source: str
    reason: str
    index: int  # of the record in its source
    shard: str
    key: str
    message: str
    sha256: Mapping[str, str] = field(default_factory=dict)  # of its members; none where a rule was applied

    @property
    def where(self) -> str:
        return f"{self.shard}, key {self.key}"


class FaultLog:
    """The account of one split in one process.

    Args:
        sizes: records of each source.
        max_faulty: the largest share of the records read that may be faulty, of at least 1,000; 0 stops at the first.
    """

    def __init__(self, sizes: Mapping[str, int], max_faulty: float = MAX_FAULTY) -> None:
        self._sizes, self._max_faulty = dict(sizes), max_faulty
        self._reads: Counter[str] = Counter()
        self._seen: dict[tuple[str, bool], bytearray] = {}  # a bit for each record: sources may have 100 million
        self.counts: Counter[tuple[str, str]] = Counter()  # by source and reason; each record once
        self.keys: dict[tuple[str, str], list[str]] = {}  # shard and key of the first of them
        self.quarantine: Quarantine | None = None

    def add(self, faults: tuple[Fault, ...], reads: Mapping[str, int]) -> None:
        """Take over what a reader noted.

        Raises:
            ValueError: more records cannot be used than `max_faulty` allows, or a whole source.
        """
        for fault in faults:
            if self._is_new(fault):
                self._add(fault)
        self._reads.update(reads)
        if faults:
            self._check()

    def words(self, source: str | None = None) -> str:
        """Counts by source and reason, each with the first record that has it."""
        kinds = [(kind, number) for kind, number in self.counts.items() if source in (None, kind[0])]
        return "; ".join(f"{kind[0]}: {n:,} x {kind[1]} (such as {self.keys[kind][0]})" for kind, n in kinds)

    def _is_new(self, fault: Fault) -> bool:
        bits = self._seen.setdefault(
            (fault.source, fault.reason in BY_RULE.values()), bytearray(self._sizes[fault.source] // 8 + 1)
        )
        byte, bit = fault.index // 8, 1 << fault.index % 8
        is_new = not bits[byte] & bit
        bits[byte] |= bit
        return is_new

    def _add(self, fault: Fault) -> None:
        kind = (fault.source, fault.reason)
        if kind not in self.counts:
            what = "changed" if fault.reason in (BY_RULE["cut"], BY_RULE["split"]) else "skipped"
            log.warning(
                "source %s: %s %s: %s. More of this kind are counted, not shown.",
                fault.source,
                what,
                fault.where,
                fault.message,
            )
        self.counts[kind] += 1
        named = self.keys.setdefault(kind, [])
        if len(named) < NAMED:
            named.append(fault.where)
        if self.quarantine is not None and fault.reason not in BY_RULE.values():
            self.quarantine.add(
                {
                    "shard": fault.shard,
                    "key": fault.key,
                    "reason": fault.reason,
                    "message": fault.message,
                    "sha256": dict(fault.sha256),
                    "source": fault.source,
                }
            )

    def _check(self) -> None:
        # Records seen so far: an epoch has each once, so reads beyond the size are repeats.
        seen = {source: min(reads, self._sizes[source]) for source, reads in self._reads.items()}
        lost = [kind for kind in self.counts if kind[1] not in (BY_RULE["cut"], BY_RULE["split"])]
        for source, number in seen.items():
            unusable = sum(self.counts[kind] for kind in lost if kind[0] == source)
            if unusable and unusable >= number and (number == self._sizes[source] or number >= MIN_READS):
                raise ValueError(f"source {source}: none of {number} records can be used: {self.words(source)}")
        faulty = sum(number for (_, reason), number in self.counts.items() if reason not in BY_RULE.values())
        total = sum(seen.values())
        if faulty and self._max_faulty == 0:
            raise ValueError(
                f"a record cannot be used, and data.max_faulty is 0: {self._faults()}; mend or remove it, or set "
                f"data.max_faulty to the share of records that may be left out"
            )
        if total >= MIN_READS and faulty > self._max_faulty * total:
            raise ValueError(
                f"{faulty} of {total} records cannot be used, more than data.max_faulty, {self._max_faulty:.2%}: "
                f"{self._faults()}; mend or remove them, or raise data.max_faulty"
            )

    def _faults(self) -> str:
        listed = "" if self.quarantine is None else f"; all are listed in {self.quarantine.path}"
        return self.words() + listed
