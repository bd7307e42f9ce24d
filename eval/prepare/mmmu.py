"""MMMU, validation split: the parquet files of MMMU/MMMU, one folder a subject. MMMU-Pro has the same rows.

Pictures stand where the question names them ("<image 1>"). A picture that only options name follows the question, with its name
before it, since options are texts.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from eval.prepare.release import Release, columns, read_parquet, stored_picture
from eval.prepare.write import Item
from eval.subject_scores import mmmu_subject
from eval.truth import LETTERS

NEEDS = "SUBJECT/validation-*.parquet of MMMU/MMMU for its 30 subjects, or data/validation-*.parquet of lmms-lab/MMMU"
COUNTS = {"val": 900}
_NAMED = re.compile(r"<image (\d)>")


def read(release: Release, part: str) -> Iterator[Item]:
    """The validation questions."""
    for path in release.find("*/validation-*.parquet", "validation-*.parquet"):
        for row in read_parquet(path):
            name, answer, kind = columns(row, "id", "answer", "question_type", where=str(path))
            where = f"{path}: {name}"
            if kind == "multiple-choice":
                yield choice_item(row, where, mmmu_subject(name))
            else:
                answers = listed(answer) if answer.startswith("[") else (answer,)
                yield Item(id=name, content=with_pictures(row, (), where), answers=answers, category=mmmu_subject(name))


def choice_item(row: Mapping[str, Any], where: str, subject: str) -> Item:
    """A question of choices, of MMMU or MMMU-Pro."""
    name, options, answer = columns(row, "id", "options", "answer", where=where)
    choices = listed(options)
    if len(answer) != 1 or answer not in LETTERS[: len(choices)]:
        raise ValueError(
            f"{where}: the answer {answer!r} is none of {len(choices)} options; test answers are not public"
        )
    return Item(
        id=name,
        content=with_pictures(row, choices, where),
        choices=choices,
        answer=LETTERS.index(answer),
        category=subject,
    )


def listed(value: object) -> tuple[str, ...]:
    """A list of texts, as such or as Python prints it."""
    found = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"a list of texts was expected, got {value!r:.80}")
    return tuple(str(text) for text in found)


def with_pictures(row: Mapping[str, Any], choices: tuple[str, ...], where: str) -> tuple[str | bytes, ...]:
    """The question's text with its pictures in their places, then those that the options name, then any that nothing names."""
    (text,) = columns(row, "question", where=where)
    content: list[str | bytes] = []
    shown: set[str] = set()
    for place, piece in enumerate(_NAMED.split(text)):
        if place % 2 == 1 and row.get(f"image_{piece}") is not None:
            content.append(_picture(row, piece, where))
            shown.add(piece)
        elif place % 2 == 1:
            content.append(f"<image {piece}>")
        elif piece:
            content.append(piece)
    rest = [
        str(number) for number in range(1, 8) if row.get(f"image_{number}") is not None and str(number) not in shown
    ]
    named = [number for choice in choices for number in _NAMED.findall(choice)]
    for number in [*(one for one in dict.fromkeys(named) if one in rest), *(one for one in rest if one not in named)]:
        content += [f"\n<image {number}>: ", _picture(row, number, where)]
    return tuple(content)


def _picture(row: Mapping[str, Any], number: str, where: str) -> bytes:
    return stored_picture(row[f"image_{number}"], f"{where}, image {number}")
