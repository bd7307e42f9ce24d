"""A first pass over a source: how many records it has, which ids come twice, and which pictures belong on one side of a split.

In: `Glance`s. Out: a `Survey`. Ids take 24 bytes each while they are compared: 250 MB for ten million. Records that share a picture
form a group, found by union; all of a group lies on one side.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from data.convert.record import BAD_JSON, OTHER_FORMAT, Fault, Glance

# A source all of whose first records are of another format is another format.
FIRST = 100


class WrongFormat(ValueError):
    """The first records are in another format; the message says what the first is."""


@dataclass
class Survey:
    """What is known before anything is written."""

    total: int = 0
    repeated: frozenset[int] = frozenset()  # numbers of items whose id came before
    faults: Counter[str] = field(default_factory=Counter)
    groups: dict[str, str] = field(default_factory=dict)  # picture -> the one that stands for its group

    def side(self, content: str, share: float) -> str:
        """`val` for this share of all groups, `train` for the rest: by content alone.

        Args:
            content: hash of a record's picture, or of its text.
        """
        group = self.groups.get(content, content)
        return "val" if int(group[:16], 16) < share * 2**64 else "train"


def make_survey(glances: Iterable[Glance | Fault]) -> Survey:
    """Look at all.

    Raises:
        WrongFormat: none of the first can be read in this format.
    """
    survey = Survey()
    numbers, digests = array("Q"), bytearray()
    parent: dict[str, str] = {}
    first: Fault | None = None
    num_wrong = 0
    for glance in glances:
        survey.total += 1
        if isinstance(glance, Fault):
            survey.faults[glance.reason] += 1
            first = first or glance
            num_wrong += glance.reason in (OTHER_FORMAT, BAD_JSON)
        else:
            if glance.id_digest is not None:
                numbers.append(glance.number)
                digests += glance.id_digest
            for picture in glance.pictures[1:]:
                _join(parent, glance.pictures[0], picture)
        if survey.total == FIRST and num_wrong == FIRST:
            break
    if first is not None and num_wrong == survey.total:
        raise WrongFormat(f"{first.where}: {first.message}")
    survey.repeated = _repeated(numbers, digests)
    survey.groups = _groups(parent)
    return survey


def _repeated(numbers: array, digests: bytearray) -> frozenset[int]:
    """The numbers of those whose digest came before."""
    if not numbers:
        return frozenset()
    halves = np.frombuffer(bytes(digests), np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal ones, the first comes first
    is_same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    return frozenset(np.frombuffer(numbers, np.uint64)[order[1:][is_same]].tolist())


def _find(parent: dict[str, str], name: str) -> str:
    root = name
    while (above := parent.get(root, root)) != root:
        root = above
    while (above := parent.get(name, name)) != root:
        parent[name], name = root, above
    return root


def _join(parent: dict[str, str], one: str, other: str) -> None:
    """The smaller of two roots stands for both: whatever the order, the same one stands for a group at the end."""
    one, other = sorted((_find(parent, one), _find(parent, other)))
    parent[one] = one
    parent[other] = one


def _groups(parent: dict[str, str]) -> dict[str, str]:
    return {name: _find(parent, name) for name in parent}
