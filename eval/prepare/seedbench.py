"""SEED-Bench, questions about pictures: SEED-Bench.json with SEED-Bench-image/, or the parquet files of lmms-lab/SEED-Bench."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = "SEED-Bench.json with SEED-Bench-image/, or data/test-*.parquet of lmms-lab/SEED-Bench"
COUNTS = {"image": 14232}
TYPES = {
    1: "Scene Understanding",
    2: "Instance Identity",
    3: "Instance Attributes",
    4: "Instance Location",
    5: "Instances Counting",
    6: "Spatial Relation",
    7: "Instance Interaction",
    8: "Visual Reasoning",
    9: "Text Understanding",
}


def read(release: Release, part: str) -> Iterator[Item]:
    """The questions of types 1 to 9; the others are about videos."""
    found = release.find("SEED-Bench.json", "data/test-*.parquet", "test-*.parquet")
    if found[0].suffix == ".json":
        (questions,) = columns(read_json(found[0]), "questions", where=str(found[0]))
        for row in questions:
            if row["data_type"] == "image":
                yield _item(row, _stored(release, found[0].parent / "SEED-Bench-image", row["data_id"]), str(found[0]))
        return
    for path in found:
        for row in read_parquet(path):
            if row["data_type"] == "image":
                picture = row["image"][0] if isinstance(row["image"], list) else row["image"]
                yield _item(row, stored_picture(picture, f"{path}: {row['question_id']}"), str(path))


def _stored(release: Release, folder: Path, name: str) -> bytes:
    """Pictures come without an extension, and with one after some tools."""
    path = next(
        (path for ending in ("", ".jpg", ".png") if (path := folder / f"{name}{ending}").is_file()), folder / name
    )
    return release.picture(path)


def _item(row: Mapping[str, Any], picture: bytes, where: str) -> Item:
    name, text, answer, kind = columns(row, "question_id", "question", "answer", "question_type_id", where=where)
    if answer not in ("A", "B", "C", "D"):
        raise ValueError(f"{where}: question {name} has the answer {answer!r}; it must be A, B, C or D")
    return Item(
        id=str(name),
        content=(picture, text),
        choices=tuple(str(row[f"choice_{letter}"]) for letter in "abcd"),
        answer="ABCD".index(answer),
        category=TYPES.get(int(kind), f"type {kind}"),
    )
