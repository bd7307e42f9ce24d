"""What is wrong, by shard and key: a fault that training refuses or leaves out, or a warning of what it would take as it is."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

MAX_NAMED = 10_000  # flaws of one kind that are kept by name; all are counted


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong."""

    shard: str  # its path; of the manifest where that is at fault
    key: str | None  # of the record; None where it is the shard's
    reason: str  # a few words, the same for all of its kind
    message: str


@dataclass
class Flaws:
    """Faults and warnings: counted by reason, kept by name up to `MAX_NAMED` of each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[Flaw]] = field(default_factory=dict)
    by_shard: Counter[str] = field(default_factory=Counter)

    def add(self, shard: Path, key: str | None, reason: str, message: str) -> None:
        self._add(Flaw(str(shard), key, reason, message))

    def merge(self, other: "Flaws") -> None:
        """Take over another account's."""
        self.counts.update(other.counts)
        self.by_shard.update(other.by_shard)
        for reason, flaws in other.named.items():
            kept = self.named.setdefault(reason, [])
            kept += flaws[: MAX_NAMED - len(kept)]

    def _add(self, flaw: Flaw) -> None:
        self.counts[flaw.reason] += 1
        self.by_shard[flaw.shard] += 1
        kept = self.named.setdefault(flaw.reason, [])
        if len(kept) < MAX_NAMED:
            kept.append(flaw)

    @property
    def total(self) -> int:
        return sum(self.counts.values())
