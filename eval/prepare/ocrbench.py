"""OCRBench: OCRBench.json with OCRBench_Images/, or the parquet files of echo840/OCRBench."""

from collections.abc import Iterator

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = "OCRBench.json with OCRBench_Images/, or data/test-*.parquet of echo840/OCRBench"
COUNTS = {"": 1000}


def read(release: Release, part: str) -> Iterator[Item]:
    """All questions; those of the parquet files numbered in their order."""
    found = release.find(
        "OCRBench/OCRBench.json", "OCRBench.json", "data/test-*.parquet", "OCRBench/test-*.parquet", "test-*.parquet"
    )
    if found[0].suffix == ".json":
        folder = release.folder_of("OCRBench_Images", near=found[0])
        for row in read_json(found[0]):
            image, name = columns(row, "image_path", "id", where=str(found[0]))
            fields = columns(row, "question", "answers", "type", "dataset_name", where=f"{found[0]}: question {name}")
            yield _item(str(name), release.picture(folder / image), *fields)
        return
    number = 0
    for path in found:
        for row in read_parquet(path):
            (image,) = columns(row, "image", where=str(path))
            fields = columns(row, "question", "answer", "question_type", "dataset", where=str(path))
            yield _item(str(number), stored_picture(image, f"{path}: question {number}"), *fields)
            number += 1


def _item(name: str, picture: bytes, text: str, answers: str | list[str], kind: str, dataset: str) -> Item:
    right = (answers,) if isinstance(answers, str) else tuple(answers)
    return Item(id=name, content=(picture, text), answers=right, category=kind, meta={"dataset": dataset})
