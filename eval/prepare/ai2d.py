"""AI2D, test split: the release of ai2d-all.zip, or the parquet files of lmms-lab/ai2d (masked) and lmms-lab/ai2d-no-mask.

Masked diagrams have the labels that are asked for replaced by letters (`abcImages`); `ai2d/no-mask` takes them as drawn.
"""

from collections.abc import Iterator
from pathlib import Path

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "questions/*.json, images/ and abcImages/ of ai2d-all.zip with ai2d_test_ids.csv beside them; "
    "or data/test-*.parquet of lmms-lab/ai2d (for ai2d/no-mask: lmms-lab/ai2d-no-mask)"
)
COUNTS = {"masked": 3088, "no-mask": 3088}


def read(release: Release, part: str) -> Iterator[Item]:
    """The test questions."""
    found = release.find("questions/*.json", "ai2d/questions/*.json", "data/test-*.parquet", "test-*.parquet")
    if found[0].suffix == ".parquet":
        yield from _of_parquet(found)
    else:
        yield from _of_release(release, found, masked=part == "masked")


def _of_release(release: Release, files: list[Path], masked: bool) -> Iterator[Item]:
    ids = release.file("ai2d_test_ids.csv", "ai2d/ai2d_test_ids.csv")
    wanted = {
        line.strip().removesuffix(".png") for line in ids.read_text(encoding="utf-8").splitlines() if line.strip()
    }
    folder = files[0].parent.parent
    for path in files:
        page = read_json(path)
        name, questions = columns(page, "imageName", "questions", where=str(path))
        if Path(name).stem not in wanted:
            continue
        for text, asked in questions.items():
            choices, right, number, lettered = columns(
                asked, "answerTexts", "correctAnswer", "questionId", "abcLabel", where=f"{path}: {text!r}"
            )
            pictures = "abcImages" if masked and lettered else "images"
            yield Item(
                id=number,
                content=(release.picture(folder / pictures / name), text),
                choices=tuple(choices),
                answer=right,
                meta={"masked": masked, "labelled": bool(lettered)},
            )


def _of_parquet(files: list[Path]) -> Iterator[Item]:
    number = 0
    for path in files:
        for row in read_parquet(path):
            text, choices, right, picture = columns(row, "question", "options", "answer", "image", where=str(path))
            yield Item(
                id=str(number),
                content=(stored_picture(picture, f"{path}: row {number}"), text),
                choices=tuple(choices),
                answer=int(right),
            )
            number += 1
