"""NoCaps, validation: nocaps_val_4500_captions.json with its pictures. The parquet files in use do not say which domain a picture is of."""

from collections import defaultdict
from collections.abc import Iterator

from eval.prepare.release import Release, columns, read_json
from eval.prepare.write import Item

NEEDS = (
    "nocaps_val_4500_captions.json (in annotations/ or beside it) with the pictures by their file_name in images/, val/ or "
    "validation/; parquet exports leave out which domain a picture is of, and are not read"
)
COUNTS = {"val": 4500}
DOMAINS = ("in-domain", "near-domain", "out-domain")


def read(release: Release, part: str) -> Iterator[Item]:
    """The pictures, with ten captions each."""
    name = "nocaps_val_4500_captions.json"
    path = release.file(name, f"annotations/{name}", f"*/{name}")
    images, captions = columns(read_json(path), "images", "annotations", where=str(path))
    folder = release.folder_of("images", "val", "validation", near=path)
    texts: dict[int, list[str]] = defaultdict(list)
    for one in captions:
        texts[one["image_id"]].append(one["caption"])
    for row in images:
        number, file, domain = columns(row, "id", "file_name", "domain", where=str(path))
        if domain not in DOMAINS:
            raise ValueError(f"{path}: picture {number} is of the domain {domain!r}; known: {', '.join(DOMAINS)}")
        if not texts[number]:
            raise ValueError(f"{path}: picture {number} has no caption; those of the test split are hidden")
        yield Item(
            id=str(number),
            content=(release.picture(folder / file),),
            answers=tuple(texts[number]),
            meta={"domain": domain},
        )
