"""DocVQA, validation, single page: val_v1.0_withQT.json with its pictures, or the parquet files of lmms-lab/DocVQA."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "val_v1.0_withQT.json (or val_v1.0.json) of Task 1 with the pictures in documents/ or spdocvqa_images/; "
    "or DocVQA/validation-*.parquet of lmms-lab/DocVQA"
)
COUNTS = {"val": 5349}


def read(release: Release, part: str) -> Iterator[Item]:
    """The validation questions."""
    names = ("val_v1.0_withQT.json", "val_v1.0.json")
    found = release.find(
        *names,
        *(f"*/{name}" for name in names),
        "DocVQA/validation-*.parquet",
        "validation-*.parquet",
        "data/validation-*.parquet",
    )
    if found[0].suffix == ".json":
        folder = release.folder_of("documents", "spdocvqa_images", near=found[0])
        (rows,) = columns(read_json(found[0]), "data", where=str(found[0]))
        for row in rows:
            (image,) = columns(row, "image", where=str(found[0]))
            yield _item(row, release.picture(folder / Path(image).name), str(found[0]))
        return
    for path in found:
        for row in read_parquet(path):
            picture, number = columns(row, "image", "questionId", where=str(path))
            yield _item(row, stored_picture(picture, f"{path}: question {number}"), str(path))


def _item(row: Mapping[str, Any], picture: bytes, where: str) -> Item:
    number, text, answers = columns(row, "questionId", "question", "answers", where=where)
    page = (row.get("ucsf_document_id"), row.get("ucsf_document_page_no"))
    return Item(
        id=str(number),
        content=(picture, text),
        answers=answered(answers, f"{where}: question {number}"),
        group="/".join(map(str, page)) if None not in page else None,
        meta={"question_types": list(row.get("question_types") or ())},
    )


def answered(answers: list[str] | None, where: str) -> tuple[str, ...]:
    """The right answers.

    Raises:
        ValueError: there is none, as in the test split.
    """
    if not answers:
        raise ValueError(f"{where} has no answers; those of the test split are hidden, take the validation split")
    return tuple(answers)
