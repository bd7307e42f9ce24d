"""VQAv2, validation: the JSON files of questions and annotations with COCO's val2014, or the parquet files of lmms-lab/VQAv2.

Each question holds its picture: 40,504 pictures become 214,354, about 34 GB. Category: the type of the answer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from eval.prepare.release import Release, columns, read_json, read_parquet, stored_picture
from eval.prepare.write import Item

NEEDS = (
    "v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json with COCO's pictures in val2014/; "
    "or data/validation-*.parquet of lmms-lab/VQAv2"
)
COUNTS = {"val": 214354}


def read(release: Release, part: str) -> Iterator[Item]:
    """The validation questions, in the order of the questions' file."""
    found = release.find(
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "*/v2_OpenEnded_mscoco_val2014_questions.json",
        "data/validation-*.parquet",
        "validation-*.parquet",
    )
    if found[0].suffix == ".parquet":
        for path in found:
            for row in read_parquet(path):
                (picture, number) = columns(row, "image", "question_id", where=str(path))
                yield _item(row, row, stored_picture(picture, f"{path}: question {number}"), str(path))
        return
    path = release.file("v2_mscoco_val2014_annotations.json", "*/v2_mscoco_val2014_annotations.json")
    (rows,) = columns(read_json(path), "annotations", where=str(path))
    annotations = {str(row["question_id"]): row for row in rows}
    (questions,) = columns(read_json(found[0]), "questions", where=str(found[0]))
    for question in questions:
        number, image = columns(question, "question_id", "image_id", where=str(found[0]))
        if str(number) not in annotations:
            raise ValueError(f"{path} has no annotation of question {number}; are both files of val2014?")
        yield _item(question, annotations[str(number)], release.coco_picture("val2014", int(image)), str(found[0]))


def _item(question: Mapping[str, Any], annotation: Mapping[str, Any], picture: bytes, where: str) -> Item:
    number, image, text = columns(question, "question_id", "image_id", "question", where=where)
    answers, kind, asked = columns(
        annotation, "answers", "answer_type", "question_type", where=f"{where}: question {number}"
    )
    return Item(
        id=str(number),
        content=(picture, text),
        answers=tuple(answer["answer"] for answer in answers),
        category=kind,
        group=str(image),
        meta={"question_type": asked},
    )
