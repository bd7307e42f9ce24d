import ast
import base64
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.export.vlmevalkit import export_task
from eval.tasks.shards import shards_task

Shard = Callable[..., Path]
IMAGE = {"type": "image", "image": "0.png"}


def rows(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_a_choice_is_a_line_with_letters(shard: Shard, tmp_path: Path) -> None:
    path = shard({"category": "c", "meta": {"l2": "d", "hint": "h"}}, {"choices": ["x\ty", "z", "w"], "answer": 2})
    table = export_task(shards_task(path, "choose"), tmp_path)
    assert table.path == tmp_path / "conceptvlm_shards_some.tsv"
    one, two = rows(table.path)
    picture = base64.b64decode(one.pop("image"))
    assert picture.startswith(b"\x89PNG")
    assert list(one) == ["index", "id", "question", "hint", "A", "B", "C", "answer", "category", "l2-category", "split"]
    assert list(one.values()) == ["0", "q0", "Which?", "h", "a", "b", "", "A", "c", "d", "test"]
    assert (two["index"], two["A"], two["C"], two["answer"]) == ("1", "x\ty", "w", "C")
    assert two["category"] == two["l2-category"] == "shards/some"


def test_an_open_question_has_no_letters(shard: Shard, tmp_path: Path) -> None:
    path = shard({"choices": None, "answer": None, "answers": ["two\nlines", "b"]})
    (row,) = rows(export_task(shards_task(path, "generate"), tmp_path).path)
    assert row["answer"] == "two\nlines"
    assert "A" not in row


def test_several_pictures_are_a_list(shard: Shard, tmp_path: Path) -> None:
    path = shard({"content": [IMAGE, {"type": "text", "text": "or"}, {"type": "image", "image": "1.png"}]})
    (row,) = rows(export_task(shards_task(path, "choose"), tmp_path).path)
    assert len(ast.literal_eval(row["image"])) == 2


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"content": [{"type": "text", "text": "Which?"}]}, "has no picture"),
        ({"choices": None, "answer": None, "box": [0, 0, 1, 1]}, "has a box"),
        ({"choices": ["a"], "answer": 0}, "one choice only"),
        ({"choices": ["yes", "None"]}, "'None', which the kit's reader takes for no choice"),
    ],
)
def test_what_the_kit_cannot_take_is_refused_and_nothing_is_left(
    shard: Shard, tmp_path: Path, fields: dict[str, Any], fault: str
) -> None:
    path = shard({}, fields)
    with pytest.raises(ValueError, match=f"'q1'.*{fault}"):
        export_task(shards_task(path, "generate"), tmp_path / "kit")
    assert not (tmp_path / "kit").exists() or not list((tmp_path / "kit").iterdir())


@pytest.mark.parametrize(
    ("choices", "changed"),
    [
        ((["1", "2"], ["3", "4"]), None),
        ((["1", "2", "3"], ["3", "4"]), "'3'"),  # the empty cell makes numbers with a point of all
        ((["1", "2"], ["03", "4"]), "'03'"),
        ((["1.50", "x"], ["2", "y"]), "'1.50'"),
        ((["1.50", "x"], ["two", "y"]), None),
    ],
)
def test_numbers_that_the_reader_would_write_in_another_way_are_refused(
    shard: Shard, tmp_path: Path, choices: tuple[list[str], list[str]], changed: str | None
) -> None:
    task = shards_task(shard({"choices": choices[0]}, {"choices": choices[1]}), "choose")
    if changed is None:
        assert [row["A"] for row in rows(export_task(task, tmp_path).path)] == [choices[0][0], choices[1][0]]
    else:
        with pytest.raises(ValueError, match=f"would write {changed}"):
            export_task(task, tmp_path)
