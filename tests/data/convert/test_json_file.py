"""A JSON list is read piece by piece, and gives what reading it at once gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.convert import json_file
from data.convert.json_file import find_files, line_texts, list_texts
from data.sample import MAX_JSON_BYTES

texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(values, max_size=6), st.sampled_from([None, 1, "\t"]), st.integers(1, 40), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_list_in_pieces_of_any_size_has_the_same_elements(
    tmp_path: Path, elements: list[Any], indent: Any, chunk: int, is_ascii: bool
) -> None:
    path = tmp_path / "list.json"
    text = json.dumps(elements, indent=indent, ensure_ascii=is_ascii)
    path.write_text(f" \n{text}\n ", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_file, "_CHUNK", chunk)
        found = list(list_texts(path))
    assert [json.loads(data) for _, data, _ in found] == elements
    assert [where for where, _, _ in found] == [f"record {number}" for number in range(1, len(elements) + 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'[{"a": 1}, {"a": ', "cannot be read on after 1 records; is the file complete"),
        (b'[{"a": 1}', "cannot be read on after 0 records"),
        (b'[{"a": 1} {"a": 2}]', "has '{\"a\": 2}]' where a comma belongs after 1 records"),
        (b'[{"a": 1}] [2]', "more behind the end"),
        (b"[1, 2,]", "cannot be read on after 2 records"),
        (b"[1, \xff]", "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_list_is_told(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=told):
        list(list_texts(path))


def test_lines_may_be_empty_end_without_a_break_and_begin_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": "\xe2\x80\xa8"}')
    assert [(where, data.strip()) for where, data, _ in line_texts(path)] == [
        ("line 1", b'{"a": 1}'),
        ("line 4", b'{"b": "\xe2\x80\xa8"}'),
    ]


def test_a_line_above_the_limit_is_a_fault_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"x" * (3 * MAX_JSON_BYTES) + b"\n{}\n")
    (_, fault, _), (where, line, position) = line_texts(path)
    assert "longer than 16,777,216 bytes" in str(fault)
    assert (where, line, position) == ("line 2", b"{}\n", path.stat().st_size)


def test_files_come_in_the_order_of_their_names_each_once(tmp_path: Path) -> None:
    for name in ("b/1.json", "a.json", "b/0.jsonl", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = find_files([tmp_path], (".json", ".jsonl"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.json", "b/0.jsonl", "b/1.json"]
    assert find_files([tmp_path / "c.txt"], (".json",)) == [tmp_path / "c.txt"]
    with pytest.raises(ValueError, match="is named twice"):
        find_files([tmp_path, tmp_path / "a.json"], (".json",))
    with pytest.raises(ValueError, match=r"no file there ends in \.csv"):
        find_files([tmp_path], (".csv",))
