"""RefCOCO+, split unc: as eval/prepare/refcoco.py."""

from collections.abc import Iterator

from eval.prepare.refcoco import needs, read_split
from eval.prepare.release import Release
from eval.prepare.write import Item

NEEDS = needs("RefCOCOplus", "unc", "val, testA, testB")
COUNTS = {"val": 10758, "testA": 5726, "testB": 4889}


def read(release: Release, part: str) -> Iterator[Item]:
    """The expressions of a split."""
    return read_split(release, part, "refcoco+", "unc")
