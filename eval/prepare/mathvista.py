"""MathVista, testmini: data/testmini-*.parquet of AI4Math/MathVista, or testmini.json with its pictures in images/.

What the official query says before the question depends on the form of the answer; it is kept in `meta.context` and comes back
with the prompt `official`. The unit stands after the question, as there.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = "data/testmini-*.parquet of AI4Math/MathVista, or testmini.json (or data/testmini.json) with images/"
COUNTS = {"testmini": 1000}
_FORMS = {
    "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.",
    "float 1": "requiring a floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.",
    "float 2": "requiring a floating-point number with two decimal places and provide the final value, e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}


def read(release: Release, part: str) -> Iterator[Item]:
    """The questions of testmini."""
    found = release.find("data/testmini-*.parquet", "testmini-*.parquet", "testmini.json", "data/testmini.json")
    if found[0].suffix == ".json":
        for name, row in read_json(found[0]).items():
            yield _item(str(name), row, release.picture(release.folder / str(row["image"])), f"{found[0]}: {name}")
        return
    for path in found:
        for row in read_parquet(path):
            name, picture = columns(row, "pid", "decoded_image", where=str(path))
            yield _item(name, row, stored_picture(picture, f"{path}: {name}"), f"{path}: {name}")


def _item(name: str, row: Mapping[str, Any], picture: bytes, where: str) -> Item:
    text, choices, unit, precision, answer, kind, form = columns(
        row, "question", "choices", "unit", "precision", "answer", "question_type", "answer_type", where=where
    )
    if kind == "multi_choice" and answer not in (choices or ()):
        raise ValueError(f"{where}: the answer {answer!r} is none of the choices; test answers are not public")
    about = "Please answer the question "
    if kind == "multi_choice":
        about += "and provide the correct option letter, e.g., A, B, C, D, at the end."
    else:
        about += _FORMS.get(
            f"float {precision or 0:.0f}" if form == "float" else form, "and provide the final answer at the end."
        )
    details = {"question_type": kind, "answer_type": form, "precision": precision, "context": about}
    metadata = row.get("metadata") or {}
    return Item(
        id=name,
        content=(picture, f"{text} (Unit: {unit})" if unit else text),
        answers=() if kind == "multi_choice" else (str(answer),),
        choices=tuple(choices) if kind == "multi_choice" else (),
        answer=choices.index(answer) if kind == "multi_choice" else None,
        category=metadata.get("task"),
        meta={key: value for key, value in details.items() if value is not None},
    )
