"""ScienceQA, test split: problems.json with pid_splits.json and the pictures, or the parquet files of derek-thomas/ScienceQA."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "problems.json, pid_splits.json and the pictures in test/ID/image.png or images/test/ID/image.png; "
    "or data/test-*.parquet of derek-thomas/ScienceQA"
)
COUNTS = {"test": 4241, "image": 2017}


def read(release: Release, part: str) -> Iterator[Item]:
    """The test questions; for `image` those that have a picture."""
    found = release.find(
        "problems.json", "data/problems.json", "data/scienceqa/problems.json", "data/test-*.parquet", "test-*.parquet"
    )
    items = _of_parquet(found) if found[0].suffix == ".parquet" else _of_release(release, found[0])
    for item in items:
        if part == "test" or item.meta["image"]:
            yield item


def _of_release(release: Release, problems: Path) -> Iterator[Item]:
    splits = problems.with_name("pid_splits.json")
    if not splits.is_file():
        raise release.wrong(f"has {problems.name} but no pid_splits.json beside it")
    found = read_json(problems)
    for number in read_json(splits)["test"]:
        where = f"{problems}: {number}"
        (row,) = columns(found, str(number), where=str(problems))
        picture = None
        if row.get("image"):
            places = [problems.parent / folder / str(number) / row["image"] for folder in ("test", "images/test")]
            picture = release.picture(next((place for place in places if place.is_file()), places[0]))
        yield _item(str(number), row, picture, where)


def _of_parquet(files: list[Path]) -> Iterator[Item]:
    number = 0
    for path in files:
        for row in read_parquet(path):
            where = f"{path}: row {number}"
            picture = None if row.get("image") is None else stored_picture(row["image"], where)
            yield _item(str(number), row, picture, where)
            number += 1


def _item(name: str, row: Mapping[str, Any], picture: bytes | None, where: str) -> Item:
    text, choices, answer, hint, subject, grade = columns(
        row, "question", "choices", "answer", "hint", "subject", "grade", where=where
    )
    return Item(
        id=name,
        content=(text,) if picture is None else (picture, text),
        choices=tuple(choices),
        answer=int(answer),
        category=subject,
        meta={"hint": hint, "grade": int(grade.removeprefix("grade")), "image": picture is not None},
    )
