"""The account of a check: for each probe and mode the largest difference, and what leaked in words."""

from dataclasses import dataclass, field

PROBES = {
    "same row twice": "the model draws noise of its own, or keeps something between two calls",
    "packed as alone": "a record differs from what it is alone",
    "packed as alone, gradients": "the gradient of a record differs from what it is alone",
    "other text beside it": "a record changes with the words of another",
    "other pictures beside it": "a record changes with the pictures of another",
    "gradient to others' tokens": "the loss of a record has a gradient with respect to another's tokens",
    "gradient to others' pictures": "the loss of a record has a gradient with respect to another's pixels",
    "concepts of one record": "a concept is made of, or seen by, tokens of two records",
    "later tokens and pictures": "tokens change with what comes after them",
    "gradient to what is later": "tokens have a gradient with respect to what comes after them",
    "pictures in their slots": "image slots do not hold the vectors of their own picture",
    "positions from 0": "the positions of a record do not begin at 0, or are not those that it has alone",
}


@dataclass
class Finding:
    """What one probe found in one mode.

    Attributes:
        compared: how many comparisons were made; 0: there was nothing to try.
        leaks: in words, one for each part of the model at which one began.
    """

    probe: str
    mode: str
    allowed: float
    largest: float = 0.0
    compared: int = 0
    leaks: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def note(self, largest: float) -> None:
        """A comparison, and what it came to."""
        self.largest = max(self.largest, largest)
        self.compared += 1

    def leak(self, part: str, words: str) -> None:
        """A leak that began at a part; others that begin there too are not told again."""
        if part not in self.parts:
            self.parts.append(part)
            self.leaks.append(words)


class Ledger:
    """All findings, in the order of the probes.

    Args:
        allowed: relative difference of values that rounding explains; for the probes that are exact it is 0.
    """

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self._findings: dict[tuple[str, str], Finding] = {}

    def of(self, probe: str, mode: str) -> Finding:
        """The finding of a probe in a mode."""
        is_exact = probe.startswith("gradient to") or probe in ("concepts of one record", "positions from 0")
        new = Finding(probe, mode, 0.0 if is_exact else self.allowed)
        return self._findings.setdefault((probe, mode), new)

    def findings(self) -> list[Finding]:
        """Ordered by probe, then by mode as they came."""
        order = {probe: place for place, probe in enumerate(PROBES)}
        return sorted(self._findings.values(), key=lambda one: order[one.probe])
