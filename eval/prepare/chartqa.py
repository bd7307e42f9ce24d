"""ChartQA, test: test_human.json and test_augmented.json with png/, or the parquet files of lmms-lab/ChartQA or HuggingFaceM4/ChartQA."""

from collections.abc import Iterator
from pathlib import Path

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "test/test_human.json, test/test_augmented.json and test/png/ of the ChartQA Dataset; "
    "or data/test-*.parquet of lmms-lab/ChartQA or HuggingFaceM4/ChartQA"
)
COUNTS = {"test": 2500}
_KINDS = {"human_test": "human", "augmented_test": "augmented", 0: "human", 1: "augmented"}


def read(release: Release, part: str) -> Iterator[Item]:
    """The questions of people, then the augmented ones, each numbered in its order."""
    found = release.find(
        "test/test_human.json",
        "test_human.json",
        "*/test/test_human.json",
        "data/test-*.parquet",
        "test-*.parquet",
    )
    if found[0].suffix == ".parquet":
        yield from _of_parquet(found)
        return
    folder = found[0].parent
    for kind in ("human", "augmented"):
        path = folder / f"test_{kind}.json"
        if not path.is_file():
            raise release.wrong(f"has test_human.json but no {path.name} beside it")
        for number, row in enumerate(read_json(path)):
            image, text, label = columns(row, "imgname", "query", "label", where=str(path))
            picture = release.picture(folder / "png" / image)
            yield _item(f"{kind}-{number}", picture, text, label, kind, image)


def _of_parquet(files: list[Path]) -> Iterator[Item]:
    counts = {"human": 0, "augmented": 0}
    for path in files:
        for row in read_parquet(path):
            lmms = "type" in row
            names = ("type", "question", "answer") if lmms else ("human_or_machine", "query", "label")
            said, text, label, image = columns(row, *names, "image", where=str(path))
            kind = _KINDS.get(said)
            if kind is None:
                raise ValueError(f"{path}: a question is of kind {said!r}; known: {', '.join(map(str, _KINDS))}")
            name = f"{kind}-{counts[kind]}"
            counts[kind] += 1
            right = label[0] if isinstance(label, list) else label
            yield _item(name, stored_picture(image, f"{path}: question {name}"), text, right, kind, None)


def _item(name: str, picture: bytes, text: str, label: str, kind: str, image: str | None) -> Item:
    return Item(id=name, content=(picture, text), answers=(label,), category=kind, group=image)
