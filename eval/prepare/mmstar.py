"""MMStar: mmstar.parquet of Lin-Chen/MMStar, whose questions hold their options, or MMStar.tsv, where they have columns."""

import re
from collections.abc import Iterator
from pathlib import Path

from eval.prepare.kit_table import read_kit_table
from eval.prepare.release import Release, columns, read_parquet, stored_picture
from eval.prepare.write import Item
from eval.truth import LETTERS

NEEDS = "mmstar.parquet of Lin-Chen/MMStar, or MMStar.tsv"
COUNTS = {"": 1500}
_OPTION = re.compile(r"(?:^|,\s*|\n)\(?([A-Z])[:.)]\s*")


def read(release: Release, part: str) -> Iterator[Item]:
    """All questions."""
    found = release.find("MMStar.tsv", "mmstar.parquet", "data/*.parquet", "*.parquet")
    if found[0].suffix == ".tsv":
        yield from _of_table(found[0])
        return
    for path in found:
        for row in read_parquet(path):
            index, text, answer, category, axis, picture = columns(
                row, "index", "question", "answer", "category", "l2_category", "image", where=str(path)
            )
            where = f"{path}: index {index}"
            question, choices = split_options(text, where)
            if len(answer) != 1 or answer not in LETTERS[: len(choices)]:
                raise ValueError(f"{where}: the answer {answer!r} is none of {len(choices)} options")
            yield Item(
                id=str(index),
                content=(stored_picture(picture, where), question),
                choices=choices,
                answer=LETTERS.index(answer),
                category=category,
                meta={"l2": axis},
            )


def split_options(text: str, where: str) -> tuple[str, tuple[str, ...]]:
    """A question and its options, of "...?\\nOptions: A: left, B: right".

    Raises:
        ValueError: the options cannot be told apart.
    """
    question, found, tail = text.rpartition("Options:")
    pieces = _OPTION.split(tail.strip())
    # Of the letters found only those in order begin an option: an option's text may hold "C:" of its own.
    choices: list[str] = []
    for letter, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if letter == LETTERS[len(choices)]:
            choices.append(piece)
        elif choices:
            choices[-1] += f", {letter}: {piece}"
    if not found or len(choices) < 2:
        raise ValueError(f"{where}: no options in {text!r:.120}; take MMStar.tsv, where they have columns of their own")
    return question.strip(), tuple(choice.strip().rstrip(",") for choice in choices)


def _of_table(path: Path) -> Iterator[Item]:
    for row in read_kit_table(path):
        yield Item(
            id=str(row.index),
            content=(*row.pictures, row.question),
            choices=row.choices,
            answer=row.answer,
            category=row.fields.get("category") or None,
            meta={"l2": row.fields.get("l2_category") or row.fields.get("l2-category", "")},
        )
