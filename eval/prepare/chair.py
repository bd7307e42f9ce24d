"""CHAIR over COCO: pictures of val2014 with the objects of instances_val2014.json and people's captions.

`chair/karpathy` takes Karpathy's test split (dataset_coco.json), as the paper does. `chair/val500` takes the 500 pictures whose numbers
image_ids.txt lists, one a line: papers draw their own. Without that file the 500 whose SHA-256 of the number is smallest.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator

from eval.prepare.release import Release, columns, read_json
from eval.prepare.write import Item

NEEDS = (
    "instances_val2014.json and captions_val2014.json (in annotations/ or beside it) with COCO's pictures in val2014/; "
    "for chair/karpathy dataset_coco.json; for chair/val500, where a list is given, image_ids.txt"
)
COUNTS = {"val500": 500, "karpathy": 5000}


def read(release: Release, part: str) -> Iterator[Item]:
    """The pictures, in the order of their numbers."""
    path = release.file("annotations/instances_val2014.json", "instances_val2014.json")
    images, labelled, classes = columns(read_json(path), "images", "annotations", "categories", where=str(path))
    names = {one["id"]: one["name"] for one in classes}
    objects: dict[int, set[str]] = defaultdict(set)
    for one in labelled:
        objects[one["image_id"]].add(names[one["category_id"]])
    told = release.file("annotations/captions_val2014.json", "captions_val2014.json")
    captions: dict[int, list[str]] = defaultdict(list)
    for one in columns(read_json(told), "annotations", where=str(told))[0]:
        captions[one["image_id"]].append(one["caption"])
    for number in sorted(_chosen(release, part, {one["id"] for one in images})):
        if not captions[number]:
            raise ValueError(f"{told} has no caption of picture {number}")
        yield Item(
            id=str(number),
            content=(release.coco_picture("val2014", number),),
            answers=tuple(captions[number]),
            meta={"objects": sorted(objects[number])},
        )


def _chosen(release: Release, part: str, known: set[int]) -> set[int]:
    if part == "karpathy":
        path = release.file("dataset_coco.json", "*/dataset_coco.json")
        (rows,) = columns(read_json(path), "images", where=str(path))
        chosen = {row["cocoid"] for row in rows if row["split"] == "test"}
    elif (path := release.folder / "image_ids.txt").is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        odd = next((line for line in lines if not line.isdecimal()), None)
        if odd is not None:
            raise ValueError(f"{path}: {odd!r} is no number of a picture; give one a line, such as 262148")
        chosen = set(map(int, lines))
    else:
        return set(sorted(known, key=lambda number: hashlib.sha256(str(number).encode()).digest())[:500])
    if unknown := sorted(chosen - known):
        raise ValueError(f"{path} names {len(unknown)} pictures that are not in val2014, the first: {unknown[0]}")
    return chosen
