"""HallusionBench: HallusionBench.json with the pictures in hallusion_bench/, or the parquet files of lmms-lab/HallusionBench.

Officially GPT-4 judges, and may find an answer unclear; here answers are read by rule, and the right ones are yes (1) and no (0).
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "HallusionBench.json with the pictures of hallusion_bench.zip in hallusion_bench/; or data/image-*.parquet and, "
    "for hallusionbench/all, data/non_image-*.parquet of lmms-lab/HallusionBench"
)
COUNTS = {"all": 1129, "image": 951}
_KEY = ("category", "subcategory", "set_id", "figure_id", "question_id")


def read(release: Release, part: str) -> Iterator[Item]:
    """All questions; for `image` those that come with a picture."""
    found = release.find("HallusionBench.json", "*/HallusionBench.json", "data/image-*.parquet", "image-*.parquet")
    if found[0].suffix == ".json":
        folder = release.folder_of("hallusion_bench", near=found[0])
        for row in read_json(found[0]):
            (name,) = columns(row, "filename", where=str(found[0]))
            if name:
                inside = PurePosixPath(name.removeprefix("./")).parts
                place = folder.joinpath(*(inside[1:] if inside[:1] == ("hallusion_bench",) else inside))
                yield _item(row, release.picture(place), str(found[0]))
            elif part == "all":
                yield _item(row, None, str(found[0]))
        return
    for path in [
        *found,
        *(release.find(f"{found[0].parent.name}/non_image-*.parquet", "non_image-*.parquet") if part == "all" else []),
    ]:
        for row in read_parquet(path):
            picture = None if row.get("image") is None else stored_picture(row["image"], str(path))
            yield _item(row, picture, str(path))


def _item(row: Mapping[str, Any], picture: bytes | None, where: str) -> Item:
    text, answer, *key = columns(row, "question", "gt_answer", *_KEY, where=where)
    name = "_".join(map(str, key))
    if str(answer) not in ("0", "1"):
        raise ValueError(f"{where}: question {name} has the answer {answer!r}; it must be 0 (no) or 1 (yes)")
    return Item(
        id=name,
        content=(text,) if picture is None else (picture, text),
        answers=("yes" if str(answer) == "1" else "no",),
        category=str(key[1]),
        group="/".join(map(str, key[:3])),
        meta={field: str(value) for field, value in zip(_KEY, key, strict=True)},
    )
