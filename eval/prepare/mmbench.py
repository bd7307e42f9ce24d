"""MMBench, dev, English: the TSV as published. Rows of one question share `index % 1,000,000`; the row below that is its first form.

A TSV without rotations gets them: each option moves up by one place at a time, its first form keeps its index.
"""

from collections.abc import Iterator

from eval.group_scores import CIRCULAR_STEP
from eval.prepare.kit_table import KitRow, read_kit_table
from eval.prepare.release import Release
from eval.prepare.write import Item

NEEDS = (
    "MMBench_DEV_EN.tsv or mmbench_dev_en_20231003.tsv (for mmbench/dev-en-v11: MMBench_DEV_EN_V11.tsv), "
    "from download.openmmlab.com or opencompass.openxlab.space"
)
FILES = {"dev-en": ("MMBench_DEV_EN.tsv", "mmbench_dev_en_*.tsv"), "dev-en-v11": ("MMBench_DEV_EN_V11.tsv",)}
COUNTS = {"dev-en": 4329}


def read(release: Release, part: str) -> Iterator[Item]:
    """Every rotation of every question."""
    path = release.file(*FILES[part])
    is_rotated = any(row.index >= CIRCULAR_STEP for row in read_kit_table(path))
    for row in read_kit_table(path):
        for turn in range(1 if is_rotated else len(row.choices)):
            yield _item(row, turn)


def _item(row: KitRow, turn: int) -> Item:
    index = row.index + turn * CIRCULAR_STEP
    return Item(
        id=str(index),
        content=(*row.pictures, row.question),
        choices=row.choices[turn:] + row.choices[:turn],
        answer=(row.answer - turn) % len(row.choices),
        category=row.fields.get("category") or None,
        group=str(index % CIRCULAR_STEP),
        meta={"index": index, "l2": row.fields.get("l2-category", ""), "hint": row.hint},
    )
