"""BLINK, validation split: the parquet files of BLINK-Benchmark/BLINK, one folder a subtask.

The question is the release's `prompt`, which says what the marks in the pictures mean, without its list of choices.
"""

import re
from collections.abc import Iterator

from eval.prepare.release import Release, columns, read_parquet, stored_picture
from eval.prepare.write import Item
from eval.truth import LETTERS

NEEDS = "SUBTASK/val-*.parquet of BLINK-Benchmark/BLINK for its 14 subtasks"
COUNTS = {"": 1901}
_CHOICES = re.compile(r"\s*(?:Select from the following (?:choices|options)[.:]?)?\s*\n?\(A\).*$", re.DOTALL)


def read(release: Release, part: str) -> Iterator[Item]:
    """The validation questions of all subtasks."""
    for path in release.find("*/val-*.parquet"):
        for row in read_parquet(path):
            name, question, choices, answer = columns(row, "idx", "question", "choices", "answer", where=str(path))
            where = f"{path}: {name}"
            letter = answer.strip("() ")
            if len(letter) != 1 or letter not in LETTERS[: len(choices)]:
                raise ValueError(
                    f"{where}: the answer {answer!r} is none of {len(choices)} choices; test answers are hidden"
                )
            pictures = [row.get(f"image_{number}") for number in range(1, 5)]
            shown = tuple(stored_picture(picture, where) for picture in pictures if picture is not None)
            yield Item(
                id=name,
                content=(*shown, _CHOICES.sub("", row.get("prompt") or "").strip() or question),
                choices=tuple(choices),
                answer=LETTERS.index(letter),
                category=row.get("sub_task") or path.parent.name,
            )
