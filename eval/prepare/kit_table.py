"""Rows of a TSV in the form that VLMEvalKit and MMBench share: index, question, hint, A, B, .., answer, category, image.

`image` is base64 text, a list of such texts, or the index of another row with the same picture.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.prepare.release import columns, read_table, stored_picture
from eval.truth import LETTERS

_LONGEST_INDEX = 64  # signs; a picture in base64 is longer


@dataclass(frozen=True)
class KitRow:
    """A question of choices."""

    index: int
    question: str
    hint: str
    choices: tuple[str, ...]
    answer: int
    pictures: tuple[bytes, ...]
    fields: Mapping[str, str]


def read_kit_table(path: Path) -> Iterator[KitRow]:
    """The rows, pictures filled in.

    Raises:
        ValueError: a column is missing, the answer is no option, or a picture stands nowhere; gives the index.
    """
    pictures: dict[int, tuple[bytes, ...]] = {}
    for row in read_table(path):
        index_text, question, answer, image = columns(row, "index", "question", "answer", "image", where=str(path))
        where = f"{path}: index {index_text}"
        index = int(float(index_text))
        options = [row.get(letter, "") for letter in LETTERS]
        count = next((place for place, text in enumerate(options) if text == ""), len(options))
        if count < 2 or len(answer) != 1 or answer not in LETTERS[:count]:
            raise ValueError(
                f"{where}: the answer {answer!r} is none of {count} options; a split without answers cannot be scored"
            )
        if len(image) <= _LONGEST_INDEX and image.isdecimal():
            if int(image) not in pictures:
                raise ValueError(
                    f"{where}: its picture is said to be that of index {image}, which does not stand before it"
                )
            pictures[index] = pictures[int(image)]
        else:
            texts = ast.literal_eval(image) if image.startswith("[") else [image]
            pictures[index] = tuple(stored_picture(text, where) for text in texts)
        yield KitRow(
            index=index,
            question=question,
            hint=row.get("hint", ""),
            choices=tuple(options[:count]),
            answer=LETTERS.index(answer),
            pictures=pictures[index],
            fields=row,
        )
