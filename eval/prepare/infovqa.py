"""InfographicVQA, validation: infographicsVQA_val_v1.0_withQT.json with its pictures, or the parquet files in lmms-lab/DocVQA."""

from collections.abc import Iterator, Mapping
from typing import Any

from eval.prepare.docvqa import answered
from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "infographicsVQA_val_v1.0_withQT.json with the pictures in infographicsvqa_images/ (or images/); "
    "or InfographicVQA/validation-*.parquet of lmms-lab/DocVQA"
)
COUNTS = {"val": 2801}


def read(release: Release, part: str) -> Iterator[Item]:
    """The validation questions."""
    name = "infographic*VQA_val_v1.0*.json"
    found = release.find(name, f"*/{name}", "InfographicVQA/validation-*.parquet", "validation-*.parquet")
    if found[0].suffix == ".json":
        path = release.file(name, f"*/{name}")
        folder = release.folder_of("infographicsvqa_images", "infographicVQA_images", "images", near=path)
        (rows,) = columns(read_json(path), "data", where=str(path))
        for row in rows:
            (image,) = columns(row, "image_local_name", where=str(path))
            yield _item(row, release.picture(folder / image), str(image), str(path))
        return
    for path in found:
        for row in read_parquet(path):
            picture, number = columns(row, "image", "questionId", where=str(path))
            yield _item(row, stored_picture(picture, f"{path}: question {number}"), row.get("image_url"), str(path))


def _item(row: Mapping[str, Any], picture: bytes, image: str | None, where: str) -> Item:
    number, text, answers = columns(row, "questionId", "question", "answers", where=where)
    kinds = {"answer_type": row.get("answer_type"), "operation": row.get("operation/reasoning")}
    return Item(
        id=str(number),
        content=(picture, text),
        answers=answered(answers, f"{where}: question {number}"),
        group=image,
        meta={name: list(kind) for name, kind in kinds.items() if kind},
    )
