"""RefCOCO, RefCOCO+ and RefCOCOg: one question for each expression, with its box in pixels of the picture.

Read are the parquet files of lmms-lab, where a row is a box with its expressions, JSON lines with a picture, an expression and a box
(left, top, right, bottom), and refs as JSON with instances.json. The official refs(unc).p is a Python pickle, which can run any
program when it is opened: it is never opened here.
"""

from collections.abc import Iterator
from pathlib import Path

from eval.prepare.release import Release, columns, read_json, read_json_lines, read_parquet, stored_picture
from eval.prepare.write import Item

Box = tuple[float, float, float, float]


def needs(name: str, export: str, splits: str) -> str:
    """What a folder must hold, in words."""
    plain = name.replace("plus", "+")
    return (
        f"data/SPLIT-*.parquet of lmms-lab/{name}; or {plain.lower()}_SPLIT.jsonl with image, sent and bbox "
        f"(x0, y0, x1, y1) a line; or refs({export}).json with instances.json; SPLIT: {splits}; JSON needs COCO's pictures in "
        f"train2014/. The official refs({export}).p is a pickle, which runs what is in it when it is opened, and is not read: "
        "where you trust it, write it out as JSON yourself"
    )


NEEDS = needs("RefCOCO", "unc", "val, testA, testB")
COUNTS = {"val": 10834, "testA": 5657, "testB": 5095}


def read(release: Release, part: str) -> Iterator[Item]:
    """The expressions of a split."""
    return read_split(release, part, "refcoco", "unc")


def read_split(release: Release, split: str, name: str, export: str) -> Iterator[Item]:
    """The expressions of a split, in the order of the release."""
    refs = (f"refs({export}).json", f"{name}/refs({export}).json")
    lines = (f"{name}_{split}.jsonl", f"{name}/{name}_{split}.jsonl")
    found = release.find(*refs, *lines, f"data/{split}-*.parquet", f"{split}-*.parquet")
    if found[0].suffix == ".parquet":
        return _of_parquet(found)
    if found[0].suffix == ".jsonl":
        return _of_lines(release, found[0])
    return _of_refs(release, found[0], split)


def _of_parquet(files: list[Path]) -> Iterator[Item]:
    number = 0
    for path in files:
        for row in read_parquet(path):
            image, texts, box, file = columns(row, "image", "answer", "bbox", "file_name", where=str(path))
            where = f"{path}: row {number}"
            picture = stored_picture(image, where)
            for place, text in enumerate([texts] if isinstance(texts, str) else texts):
                yield _item(f"{number}-{place}", picture, text, _from_corner(box, where), picture_name(file), where)
            number += 1


def _of_lines(release: Release, path: Path) -> Iterator[Item]:
    for number, row in enumerate(read_json_lines(path)):
        image, text, box = columns(row, "image", "sent", "bbox", where=f"{path}: line {number + 1}")
        where = f"{path}: line {number + 1}"
        picture = release.coco_picture("train2014", coco_number(image, where))
        yield _item(str(number), picture, text, _four(box, where), picture_name(image), where)


def _of_refs(release: Release, path: Path, split: str) -> Iterator[Item]:
    instances = path.with_name("instances.json")
    if not instances.is_file():
        raise release.wrong(f"has {path.name} but no instances.json beside it")
    (labelled,) = columns(read_json(instances), "annotations", where=str(instances))
    boxes = {one["id"]: one["bbox"] for one in labelled}
    for row in read_json(path):
        number, label, image, of, sentences = columns(
            row, "ref_id", "ann_id", "image_id", "split", "sentences", where=str(path)
        )
        if of != split:
            continue
        where = f"{path}: ref {number}"
        if label not in boxes:
            raise ValueError(f"{where}: {instances} has no annotation {label}")
        picture = release.coco_picture("train2014", int(image))
        for sentence in sentences:
            name, text = columns(sentence, "sent_id", "sent", where=where)
            yield _item(str(name), picture, text, _from_corner(boxes[label], where), str(image), where)


def _item(name: str, picture: bytes, text: str, box: Box, image: str, where: str) -> Item:
    if not text.strip():
        raise ValueError(f"{where}: an expression is empty")
    return Item(id=name, content=(picture, text), box=box, group=image)


def picture_name(file: str) -> str:
    """The number of the picture in names such as COCO_train2014_000000581857_16.jpg, where the 16 is of the box."""
    return "_".join(Path(file).stem.split("_")[:3])


def coco_number(image: str, where: str) -> int:
    """Likewise, as a number.

    Raises:
        ValueError: another name.
    """
    name = picture_name(image)
    if not name.startswith("COCO_train2014_") or not name[-12:].isdecimal():
        raise ValueError(f"{where}: {image!r} is no picture of COCO's train2014")
    return int(name[-12:])


def _four(box: object, where: str) -> Box:
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{where}: a box is four numbers, got {box!r:.80}")
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom


def _from_corner(box: object, where: str) -> Box:
    """From left, top, width, height, as COCO stores boxes."""
    left, top, width, height = _four(box, where)
    return left, top, left + width, top + height
