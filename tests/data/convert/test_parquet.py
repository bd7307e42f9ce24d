"""Parquet, as the_cauldron, FineVision, TRL's sets and FineWeb-Edu have it. Needs pyarrow, which the development set-up has."""

import datetime
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.convert.record import Wanted
from data.sample import Message, Part

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def rows(make: SimpleNamespace) -> list[dict[str, Any]]:
    """As the_cauldron's."""
    return [
        {
            "images": [
                {"bytes": make.picture(2 * number), "path": None},
                {"bytes": make.picture(2 * number + 1, kind="JPEG"), "path": "x"},
            ],
            "texts": [
                {"user": f"question {number}", "assistant": "yes", "source": "ai2d"},
                {"user": "and?", "assistant": f"answer {number}", "source": "ai2d"},
            ],
        }
        for number in range(10)
    ]


def test_a_row_is_a_conversation_with_its_pictures_first(
    rows: list[dict[str, Any]], tmp_path: Path, convert: Any, samples: Any
) -> None:
    rows[3]["images"] = []
    pq.write_table(pa.Table.from_pylist(rows[:6]), tmp_path / "train-00000.parquet", row_group_size=4)
    pq.write_table(pa.Table.from_pylist(rows[6:]), tmp_path / "train-00001.parquet", row_group_size=4)
    assert convert("parquet", tmp_path)["written"] == 10
    found = samples()
    assert found[7].messages == (
        Message("user", (Part(image="0.png"), Part(image="1.jpg"), Part(text="question 7"))),
        Message("assistant", (Part(text="yes"),)),
        Message("user", (Part(text="and?"),)),
        Message("assistant", (Part(text="answer 7"),)),
    )
    assert list(found[7].images.values()) == [image["bytes"] for image in rows[7]["images"]]
    assert (found[3].images, found[3].messages[0].parts) == ({}, (Part(text="question 3"),))


def test_a_run_over_parquet_goes_on_and_skips_groups_of_rows_that_are_written(
    rows: list[dict[str, Any]], tmp_path: Path, convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet", row_group_size=2)
    convert("parquet", tmp_path, out=tmp_path / "whole", shard_records=3, val_share=0.4)
    from data.convert import conversion

    read = []
    items = conversion.Conversion._items

    def until_the_seventh(self: Any, source: Any, whole: bool, wanted: Wanted) -> Any:
        for item in items(self, source, whole, wanted):
            if wanted.any(0, 1) and item.number == 7 and len(read) > 7:
                raise KeyboardInterrupt
            read.append(item.number)
            yield item

    monkeypatch.setattr(conversion.Conversion, "_items", until_the_seventh)
    monkeypatch.setattr("data.convert.chunks.CHUNK_RECORDS", 1)
    with pytest.raises(KeyboardInterrupt):
        convert("parquet", tmp_path, shard_records=3, val_share=0.4)
    assert list((tmp_path / "out").rglob("*.tar"))
    assert not list((tmp_path / "out").rglob("dataset.json"))
    read.clear()
    convert("parquet", tmp_path, shard_records=3, val_share=0.4)
    again = read[10:]  # the first ten are the survey
    assert len(again) < 10
    assert again[-1] == 9
    for split in ("train", "val"):
        whole = {path.name: path.read_bytes() for path in (tmp_path / "whole" / split).iterdir()}
        assert {path.name: path.read_bytes() for path in (tmp_path / "out" / split).iterdir()} == whole


def test_messages_in_parquet_have_nulls_where_a_part_has_no_such_field(
    tmp_path: Path, convert: Any, samples: Any, make: SimpleNamespace
) -> None:
    row = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look: ", "index": None},
                    {"type": "image", "text": None, "index": 0},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "a cat", "index": None}]},
        ],
        "images": [{"bytes": make.picture(5), "path": None}],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    convert("hf-messages", tmp_path / "m.parquet")
    (sample,) = samples()
    assert sample.messages[0].parts == (Part(text="Look: "), Part(image="0.png"))
    assert sample.images == {"0.png": row["images"][0]["bytes"]}


def test_pictures_that_are_no_pictures_or_no_texts_are_faults_of_their_rows(
    rows: list[dict[str, Any]], tmp_path: Path, convert: Any, faults: Any
) -> None:
    rows[1]["images"][0]["bytes"] = b"GIF89a..."
    rows[2]["images"][0]["bytes"] = None
    rows[4]["texts"] = []
    rows[5]["texts"][0]["user"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert convert("parquet", tmp_path / "x.parquet")["written"] == 6
    assert [(fault["number"], fault["reason"]) for fault in faults()] == [
        (1, "no JPEG, PNG or WebP"),
        (2, "missing picture"),
        (4, "bad record"),
        (5, "bad record"),
    ]
    assert faults()[1]["where"] == "x.parquet row 2"


def test_texts_come_from_a_column_and_ids_are_kept(tmp_path: Path, convert: Any, samples: Any) -> None:
    texts = [
        {"text": f"text {i}", "id": f"<urn:uuid:{i}>", "dump": "CC-MAIN", "date": datetime.date(2024, 1, 1)}
        for i in range(5)
    ]
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "000_00000.parquet")
    convert("text", tmp_path / "000_00000.parquet")
    assert [(sample.id, sample.content[0].text) for sample in samples()] == [(row["id"], row["text"]) for row in texts]


def test_other_columns_and_damaged_files_are_told(rows: list[dict[str, Any]], tmp_path: Path, convert: Any) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(
        ValueError, match=r"needs the column messages, it has images, texts; .* looks like --from parquet"
    ):
        convert("hf-messages", path)
    with pytest.raises(ValueError, match=r"--from jsonl: x.parquet line 1: .* looks like --from parquet"):
        convert("jsonl", path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="is no complete parquet file"):
        convert("parquet", path)
    file = io.BytesIO()
    pq.write_table(pa.table({"images": [[]], "texts": [[{"user": "a", "assistant": "b"}]]}), file)
    path.write_bytes(file.getvalue()[:4] + b"\xff" * 20 + file.getvalue()[24:])
    with pytest.raises((ValueError, OSError)):
        convert("parquet", path)
