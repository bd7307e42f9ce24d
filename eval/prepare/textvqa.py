"""TextVQA, validation: TextVQA_0.5.1_val.json with train_images/, or the parquet files of lmms-lab/textvqa.

OCR tokens are left out: with them in the prompt scores are of another benchmark.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "TextVQA_0.5.1_val.json with the pictures of train_val_images.zip in train_images/; "
    "or data/validation-*.parquet of lmms-lab/textvqa"
)
COUNTS = {"val": 5000}


def read(release: Release, part: str) -> Iterator[Item]:
    """The validation questions."""
    found = release.find(
        "TextVQA_0.5.1_val.json", "TextVQA*_val.json", "data/validation-*.parquet", "validation-*.parquet"
    )
    if found[0].suffix == ".json":
        folder = release.folder_of("train_images", "train_val_images/train_images", near=found[0])
        (rows,) = columns(read_json(found[0]), "data", where=str(found[0]))
        for row in rows:
            (image,) = columns(row, "image_id", where=str(found[0]))
            yield _item(row, release.picture(folder / f"{image}.jpg"), str(found[0]))
        return
    for path in found:
        for row in read_parquet(path):
            picture, number = columns(row, "image", "question_id", where=str(path))
            yield _item(row, stored_picture(picture, f"{path}: question {number}"), str(path))


def _item(row: Mapping[str, Any], picture: bytes, where: str) -> Item:
    number, image, text, answers = columns(row, "question_id", "image_id", "question", "answers", where=where)
    return Item(id=str(number), content=(picture, text), answers=tuple(answers), group=str(image))
