"""RealWorldQA: data/test-*.parquet of xai-org/RealworldQA, or annotations.json with its pictures.

A question holds its options as lines "A. text" and ends with how it wants to be answered; both are cut off here, and come
back with the prompt.
"""

import re
from collections.abc import Iterator

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item
from eval.truth import LETTERS

NEEDS = "data/test-*.parquet of xai-org/RealworldQA, or annotations.json with the pictures beside it or in images/"
COUNTS = {"": 765}
_INSTRUCTION = re.compile(r"\s*Please answer directly with[^\n]*$")
_OPTION = re.compile(r"^\s*([A-Z])[.)] (.*)$")


def read(release: Release, part: str) -> Iterator[Item]:
    """All questions, numbered in their order."""
    found = release.find("annotations.json", "*/annotations.json", "data/test-*.parquet", "test-*.parquet")
    if found[0].suffix == ".json":
        for number, row in enumerate(read_json(found[0])):
            name, text, answer = columns(row, "image", "question", "answer", where=str(found[0]))
            places = [found[0].parent / folder / name for folder in ("", "images")]
            picture = release.picture(next((place for place in places if place.is_file()), places[0]))
            yield _item(number, picture, text, answer)
        return
    number = 0
    for path in found:
        for row in read_parquet(path):
            picture, text, answer = columns(row, "image", "question", "answer", where=str(path))
            yield _item(number, stored_picture(picture, f"{path}: row {number}"), text, answer)
            number += 1


def _item(number: int, picture: bytes, text: str, answer: str) -> Item:
    lines = _INSTRUCTION.sub("", text.strip()).split("\n")
    options: list[str] = []
    while lines and (option := _OPTION.match(lines[-1])):
        options.insert(0, option[2].strip())
        lines.pop()
    question = "\n".join(lines).strip()
    if len(options) >= 2 and answer.strip() in LETTERS[: len(options)]:
        place = LETTERS.index(answer.strip())
        return Item(id=str(number), content=(picture, question), choices=tuple(options), answer=place)
    return Item(id=str(number), content=(picture, _INSTRUCTION.sub("", text.strip())), answers=(answer.strip(),))
