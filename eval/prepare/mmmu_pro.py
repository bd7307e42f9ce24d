"""MMMU-Pro, test split: the parquet files of MMMU/MMMU_Pro; ten options, or question and options inside the picture."""

from collections.abc import Iterator

from eval.prepare.mmmu import choice_item, listed
from eval.prepare.release import Release, columns, read_parquet, stored_picture
from eval.prepare.write import Item
from eval.truth import LETTERS

NEEDS = '"standard (10 options)/test-*.parquet" and vision/test-*.parquet of MMMU/MMMU_Pro'
COUNTS = {"standard": 1730, "vision": 1730}


def read(release: Release, part: str) -> Iterator[Item]:
    """The questions of one setting."""
    folder = "vision" if part == "vision" else "standard (10 options)"
    for path in release.find(f"{folder}/test-*.parquet"):
        for row in read_parquet(path):
            name, subject = columns(row, "id", "subject", where=str(path))
            where = f"{path}: {name}"
            if part == "standard":
                yield choice_item(row, where, subject)
                continue
            picture, options, answer = columns(row, "image", "options", "answer", where=where)
            choices = listed(options)
            if answer not in LETTERS[: len(choices)]:
                raise ValueError(f"{where}: the answer {answer!r} is none of {len(choices)} options")
            yield Item(
                id=name,
                content=(stored_picture(picture, where),),
                choices=choices,
                answer=LETTERS.index(answer),
                category=subject,
            )
