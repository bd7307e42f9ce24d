"""POPE: the three JSON-lines files coco_pope_*.json with COCO's val2014, or the parquet files of lmms-lab/POPE.

An older release has 2,910 questions in random; today's has 3,000 in each.
"""

from collections.abc import Iterator

from eval.prepare.release import Release, columns, read_json_lines, read_parquet, stored_picture
from eval.prepare.write import Item

CATEGORIES = ("random", "popular", "adversarial")
NEEDS = (
    "coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json (beside it, or in coco/ or output/coco/) "
    "with COCO's pictures in val2014/; or data/test-*.parquet of lmms-lab/POPE"
)
COUNTS = {"": 9000}


def read(release: Release, part: str) -> Iterator[Item]:
    """The questions, category by category."""
    first = "coco_pope_random.json"
    found = release.find(
        first, f"coco/{first}", f"output/coco/{first}", f"*/{first}", "data/test-*.parquet", "test-*.parquet"
    )
    if found[0].suffix == ".parquet":
        for path in found:
            for row in read_parquet(path):
                kind, number, text, answer, picture = columns(
                    row, "category", "question_id", "question", "answer", "image", where=str(path)
                )
                source = str(row.get("image_source") or "") or None
                yield _item(kind, number, stored_picture(picture, f"{path}: {number}"), text, answer, source, str(path))
        return
    for kind in CATEGORIES:
        path = found[0].with_name(f"coco_pope_{kind}.json")
        if not path.is_file():
            raise release.wrong(f"has {first} but no {path.name} beside it")
        for row in read_json_lines(path):
            number, image, text, answer = columns(row, "question_id", "image", "text", "label", where=str(path))
            stem = image.removesuffix(".jpg")
            if not stem.startswith("COCO_val2014_") or not stem[-12:].isdecimal():
                raise ValueError(f"{path}: question {number} is about {image!r}; a picture of val2014 was expected")
            picture = release.coco_picture("val2014", int(stem[-12:]))
            yield _item(kind, number, picture, text, answer, stem, str(path))


def _item(kind: str, number: object, picture: bytes, text: str, answer: str, image: str | None, where: str) -> Item:
    if kind not in CATEGORIES or answer not in ("yes", "no"):
        raise ValueError(
            f"{where}: question {number} of {kind!r} has the answer {answer!r}; it must be yes or no, of {', '.join(CATEGORIES)}"
        )
    return Item(id=f"{kind}-{number}", content=(picture, text), answers=(answer,), category=kind, group=image)
