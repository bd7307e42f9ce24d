"""RefCOCOg, split umd: as eval/prepare/refcoco.py."""

from collections.abc import Iterator

from eval.prepare.refcoco import needs, read_split
from eval.prepare.release import Release
from eval.prepare.write import Item

NEEDS = needs("RefCOCOg", "umd", "val, test")
COUNTS = {"val": 4896, "test": 9602}


def read(release: Release, part: str) -> Iterator[Item]:
    """The expressions of a split."""
    return read_split(release, part, "refcocog", "umd")
