"""COCO captions, Karpathy's test split: dataset_coco.json with COCO's val2014."""

from collections.abc import Iterator

from eval.prepare.release import Release, columns, read_json
from eval.prepare.write import Item

NEEDS = "dataset_coco.json (of Karpathy's caption_datasets.zip) with COCO's pictures in val2014/"
COUNTS = {"karpathy": 5000}


def read(release: Release, part: str) -> Iterator[Item]:
    """The pictures of the split `test`, with all their captions."""
    path = release.file("dataset_coco.json", "*/dataset_coco.json")
    (rows,) = columns(read_json(path), "images", where=str(path))
    for row in rows:
        number, split, sentences = columns(row, "cocoid", "split", "sentences", where=str(path))
        if split != "test":
            continue
        if row.get("filepath", "val2014") != "val2014":
            raise ValueError(f"{path}: picture {number} of the test split lies in {row['filepath']}, not in val2014")
        yield Item(
            id=str(number),
            content=(release.coco_picture("val2014", int(number)),),
            answers=tuple(sentence["raw"] for sentence in sentences),
        )
