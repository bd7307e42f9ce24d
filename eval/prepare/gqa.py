"""GQA, testdev, balanced: testdev_balanced_questions.json with images/, or the two parquet folders of lmms-lab/GQA.

Category: the structural type. Pictures of the parquet form stand in a folder of their own, and are joined by `imageId`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "testdev_balanced_questions.json (of questions1.2.zip) with the pictures of images.zip in images/; or "
    "testdev_balanced_instructions/testdev-*.parquet and testdev_balanced_images/testdev-*.parquet of lmms-lab/GQA"
)
COUNTS = {"testdev": 12578}


def read(release: Release, part: str) -> Iterator[Item]:
    """The questions of testdev."""
    found = release.find(
        "testdev_balanced_questions.json",
        "*/testdev_balanced_questions.json",
        "testdev_balanced_instructions/testdev-*.parquet",
    )
    if found[0].suffix == ".json":
        folder = release.folder_of("images", "../images", near=found[0])
        for name, row in read_json(found[0]).items():
            yield _item(name, row, lambda image: release.picture(folder / f"{image}.jpg"), str(found[0]))
        return
    pictures = {}
    for path in release.find("testdev_balanced_images/testdev-*.parquet"):
        for row in read_parquet(path):
            name, picture = columns(row, "id", "image", where=str(path))
            pictures[str(name)] = stored_picture(picture, f"{path}: {name}")

    def stored(image: str) -> bytes:
        if image not in pictures:
            raise release.wrong(f"has no picture {image} in testdev_balanced_images")
        return pictures[image]

    for path in found:
        for row in read_parquet(path):
            (name,) = columns(row, "id", where=str(path))
            yield _item(name, row, stored, str(path))


def _item(name: str, row: Mapping[str, Any], picture: Callable[[str], bytes], where: str) -> Item:
    text, answer, image = columns(row, "question", "answer", "imageId", where=f"{where}: question {name}")
    types = row.get("types") or {}
    return Item(
        id=str(name),
        content=(picture(str(image)), text),
        answers=(answer,),
        category=types.get("structural"),
        group=str(image),
        meta={kind: types[kind] for kind in ("semantic", "detailed") if types.get(kind)},
    )
