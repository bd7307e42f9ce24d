"""What comes in is written, a fault, or left out; the bytes hang on the source alone; a run that was stopped goes on."""

import errno
import json
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.convert import conversion
from data.convert.conversion import Conversion
from data.convert.picture_file import read_picture
from data.convert.settings import Settings
from data.convert.workers import Workers
from data.shard_writer import ShardWriter
from data.shards import open_shards
from data.tar import MAX_MEMBER_BYTES


@pytest.fixture
def lines(tmp_path: Path, make: SimpleNamespace, write_lines: Any) -> Path:
    """A hundred records: text, one picture, two pictures; some pictures several times."""
    (tmp_path / "images").mkdir()
    for number in range(40):
        (tmp_path / "images" / f"{number}.png").write_bytes(
            make.picture(number % 30)
        )  # 30 to 39 are the first ten again
    records = []
    for number in range(100):
        names = [[], [number % 40], [number % 40, (number * 7 + 3) % 40] if number % 5 == 2 else [number % 40]][
            number % 3
        ]
        pictures = [{"type": "image", "image": f"images/{name}.png"} for name in names]
        records.append({"id": f"r{number}", "content": [*pictures, {"type": "text", "text": f"words {number}"}]})
    return write_lines(tmp_path / "mine.jsonl", records)


def contents(folder: Path) -> dict[str, bytes]:
    """All that a run writes, but for its journal, which has the times of files in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".progress.jsonl"
    }


@pytest.mark.long
@pytest.mark.parametrize("val_share", [None, 0.2])
def test_the_bytes_do_not_hang_on_workers_or_on_the_order_of_files(
    lines: Path, tmp_path: Path, convert: Any, val_share: float | None
) -> None:
    for workers in (1, 2, 3):
        convert("jsonl", lines, out=tmp_path / str(workers), workers=workers, shard_records=30, val_share=val_share)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_a_picture_is_never_on_both_sides_of_a_split(lines: Path, tmp_path: Path, convert: Any, samples: Any) -> None:
    summary = convert("jsonl", lines, val_share=0.3)
    sides = {side: samples(tmp_path / "out" / side) for side in ("train", "val")}
    pictures = {side: {data for sample in found for data in sample.images.values()} for side, found in sides.items()}
    assert all(pictures.values())
    assert not pictures["train"] & pictures["val"]
    assert len(sides["train"]) + len(sides["val"]) == summary["written"] == 100
    again = Conversion(format="jsonl", settings=Settings(sources=(lines,)), out=tmp_path / "again", val_share=0.3)
    lines.write_text("\n".join(reversed(lines.read_text().splitlines())) + "\n")
    again.run(lambda what: lambda done, total: None)
    assert {sample.id for sample in samples(tmp_path / "again" / "val")} == {sample.id for sample in sides["val"]}


def test_a_split_without_pictures_goes_by_the_text(
    tmp_path: Path, convert: Any, write_lines: Any, samples: Any
) -> None:
    texts = [{"content": f"text {number % 200}"} for number in range(400)]
    convert("jsonl", write_lines(tmp_path / "t.jsonl", texts), val_share=0.25)
    sides = [{sample.content[0].text for sample in samples(tmp_path / "out" / side)} for side in ("train", "val")]
    assert not sides[0] & sides[1]
    assert 30 <= len(sides[1]) <= 70  # 50 of 200, 3 standard deviations


class Stopped(Exception):
    pass


@pytest.mark.parametrize("val_share", [None, 0.2])
@pytest.mark.parametrize("shard_records", [3, 7, 40])
def test_a_run_that_stops_anywhere_goes_on_to_the_same_bytes(
    lines: Path,
    tmp_path: Path,
    convert: Any,
    monkeypatch: pytest.MonkeyPatch,
    val_share: float | None,
    shard_records: int,
) -> None:
    """Stopped after each few records, again and again, until it is done."""
    with lines.open("a") as file:
        file.write('{"id": "r3", "content": "the third again"}\nno JSON\n')
    options = {"val_share": val_share, "shard_records": shard_records}
    convert("jsonl", lines, out=tmp_path / "whole", **options)
    add, left = ShardWriter.add, [0]

    def stop_sometimes(self: ShardWriter, key: str, members: dict[str, bytes]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        add(self, key, members)

    monkeypatch.setattr(ShardWriter, "add", stop_sometimes)
    stops = 0
    while True:
        left[0] = shard_records + 30 + stops % 5  # a shard, and what is open of the other split
        try:
            convert("jsonl", lines, **options)
            break
        except Stopped:
            stops += 1
            assert stops < 60
            assert not (tmp_path / "out" / "dataset.json").exists()
    assert stops >= 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_was_named_but_not_noted_is_made_again(
    lines: Path, tmp_path: Path, convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the rename and the journal's line."""
    convert("jsonl", lines, out=tmp_path / "whole", shard_records=30)
    note, count = conversion.Journal.note_shard, [0]

    def die_at_the_second(self: Any, *arguments: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            raise Stopped
        note(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(conversion.Journal, "note_shard", die_at_the_second)
        with pytest.raises(Stopped):
            convert("jsonl", lines, shard_records=30)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["000000.tar", "000001.tar"]
    with (tmp_path / "out" / ".progress.jsonl").open("a") as file:
        file.write('{"split": "", "shard": {"na')  # a line cut short
    (tmp_path / "out" / ".000002.tar.part").write_bytes(b"half")
    convert("jsonl", lines, shard_records=30)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_run_is_not_done_again(lines: Path, tmp_path: Path, convert: Any) -> None:
    summary = convert("jsonl", lines, shard_records=30)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.suffix == ".tar"}
    assert convert("jsonl", lines, shard_records=30) == summary
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_another_source_another_setting_and_other_contents_are_refused(
    lines: Path, tmp_path: Path, convert: Any, write_lines: Any
) -> None:
    convert("jsonl", lines, shard_records=30)
    with pytest.raises(ValueError, match="was begun with --shard-records 30, this is 31; go on with the same command"):
        convert("jsonl", lines, shard_records=31)
    with pytest.raises(ValueError, match="was begun with --from jsonl, this is llava"):
        convert("llava", lines, shard_records=30)
    with lines.open("a") as file:
        file.write('{"content": "more"}\n')
    with pytest.raises(ValueError, match="was begun of other files, or they have changed since"):
        convert("jsonl", lines, shard_records=30)


def test_a_changed_shard_a_strange_one_and_a_strange_folder_are_refused(
    lines: Path, tmp_path: Path, convert: Any, make: SimpleNamespace
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"other is not empty \(it has 'thesis.txt'\); choose another folder"):
        convert("jsonl", lines, out=tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    convert("jsonl", lines, shard_records=30)
    shard = tmp_path / "out" / "000001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"000001.tar is not what was written there; remove .*out and begin anew"):
        convert("jsonl", lines, shard_records=30)


def test_two_runs_do_not_write_into_one_folder(lines: Path, tmp_path: Path, convert: Any) -> None:
    with conversion.Journal(tmp_path / "out", {"--from": "x"}):
        with pytest.raises(ValueError, match="another run writes here"):
            convert("jsonl", lines)
        assert (tmp_path / "out" / ".progress.jsonl").exists()
    convert("jsonl", lines, out=tmp_path / "out2")


def test_every_item_is_a_record_or_a_fault_that_is_named(
    lines: Path, tmp_path: Path, convert: Any, faults: Any, make: SimpleNamespace, write_lines: Any
) -> None:
    images = tmp_path / "images"
    (images / "gif.png").write_bytes(b"GIF89a" + bytes(100))
    (images / "cut.png").write_bytes(make.picture(1)[:20])
    (images / "empty.png").write_bytes(b"")
    (images / "bomb.png").write_bytes(
        make.picture(1).replace(struct.pack(">II", 24, 16), struct.pack(">II", 9000, 9000), 1)
    )
    (images / "folder.png").mkdir()
    os.mkfifo(images / "pipe.png")
    with (images / "large.png").open("wb") as file:
        file.truncate(MAX_MEMBER_BYTES + 1)
    bad = {
        "images/gif.png": "no JPEG, PNG or WebP",
        "images/cut.png": "corrupt picture",
        "images/empty.png": "corrupt picture",
        "images/bomb.png": "picture too large",
        "images/folder.png": "missing picture",
        "images/pipe.png": "missing picture",
        "images/large.png": "picture too large",
        "images/none.png": "missing picture",
        "": "missing picture",
        "a\0b": "missing picture",
        "x" * 300: "missing picture",
        "images/0.png/1.png": "missing picture",
    }
    with lines.open("ab") as file:
        for name in bad:
            file.write(json.dumps({"content": [{"type": "image", "image": name}]}).encode() + b"\n")
        for line in (
            b"[1]",
            b"{",
            b'{"content": NaN}',
            b'{"content": "caf\xe9"}',
            b'{"content": ""}',
            b'{"id": 1.5, "content": "x"}',
        ):
            file.write(line + b"\n")
        file.write(b'{"content": "\\ud800"}\n{"id": "r7", "content": "again"}\n')
    summary = convert("jsonl", lines, max_faults=0.5)
    found = faults()
    assert summary["written"] == 100
    assert summary["records"] == 120 == summary["written"] + len(found)
    assert [fault["number"] for fault in found] == list(range(100, 120))
    assert [fault["reason"] for fault in found[:12]] == list(bad.values())
    assert [fault["reason"] for fault in found[12:]] == [
        *["bad JSON"] * 4,
        *["bad record"] * 2,
        "bad JSON",
        "repeated id",
    ]
    assert found[19]["where"] == "mine.jsonl line 120"
    assert sum(summary["faults"].values()) == 20


def test_pictures_outside_of_their_folder_are_refused(
    tmp_path: Path, convert: Any, faults: Any, make: SimpleNamespace, write_lines: Any
) -> None:
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(make.picture(1))
    (folder / "inside.png").write_bytes(make.picture(2))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "near.png").symlink_to("inside.png")
    (folder / "up").symlink_to(tmp_path)
    (tmp_path / "data" / "images2").mkdir()
    (tmp_path / "data" / "images2" / "a.png").write_bytes(make.picture(3))
    (folder / "beside.png").symlink_to(tmp_path / "data" / "images2" / "a.png")
    bad = [
        "../../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "up/secret.png",
        "x/../../images2/a.png",
        "beside.png",
    ]
    lines = [{"id": name, "content": [{"type": "image", "image": name}]} for name in [*bad, "inside.png", "near.png"]]
    summary = convert("jsonl", write_lines(tmp_path / "data" / "x.jsonl", lines), images=folder)
    assert summary["written"] == 2
    assert [fault["reason"] for fault in faults()] == ["outside the folder"] * 6


def test_a_file_that_cannot_be_read_stops_the_run_and_names_it(
    lines: Path, tmp_path: Path, convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a fault of the data: a record must not be lost because a disk failed."""
    opened = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("21.png"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(OSError, match=r"21\.png"):
            convert("jsonl", lines, shard_records=10)
    assert not list((tmp_path / "out").glob("dataset.json"))
    convert("jsonl", lines, shard_records=10)


def test_a_full_disk_leaves_no_half_shard_and_the_run_goes_on_when_there_is_room(
    lines: Path, tmp_path: Path, convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data import shard_writer

    write, left = shard_writer.write_member, [90]

    def full(file: Any, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "write_member", full)
        with pytest.raises(OSError, match="No space left on device") as told:
            convert("jsonl", lines, shard_records=20)
    assert told.value.filename.endswith(".tar.part")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".progress.jsonl", "000000.tar", "000001.tar"]
    convert("jsonl", lines, shard_records=20)
    convert("jsonl", lines, shard_records=20, out=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_too_many_faults_stop_a_run_and_are_written_down(
    lines: Path, convert: Any, faults: Any, tmp_path: Path
) -> None:
    for number in range(15, 40):
        (tmp_path / "images" / f"{number}.png").unlink()
    with pytest.raises(
        ValueError,
        match=r"11 of 100 records are faults, more than --max-faults 0.1 allows: 11 missing picture; the last",
    ):
        convert("jsonl", lines)
    assert len(faults()) == 11
    summary = convert("jsonl", lines, max_faults=1.0)
    assert len(faults()) == sum(summary["faults"].values()) > 11


def test_ids_that_name_pictures_are_told_before_anything_is_written(
    tmp_path: Path, convert: Any, write_lines: Any, samples: Any
) -> None:
    file = write_lines(tmp_path / "x.jsonl", [{"id": f"picture{n % 50}", "content": f"{n}"} for n in range(100)])
    with pytest.raises(
        ValueError, match=r"50 of 100 records have an id that came before, the first is record 50: .* --number-ids"
    ):
        convert("jsonl", file)
    assert not (tmp_path / "out").exists()
    convert("jsonl", file, number_ids=True)
    assert [sample.id for sample in samples()] == [f"{number:08}" for number in range(100)]


def test_a_limit_takes_the_first_and_shards_keep_their_size(lines: Path, tmp_path: Path, convert: Any) -> None:
    summary = convert("jsonl", lines, limit=30, shard_bytes=20_000, shard_records=None)
    assert summary["records"] == summary["written"] == 30
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert len(sizes) > 2
    assert all(size <= 20_000 for size in sizes)
    assert len(open_shards(tmp_path / "out")) == 30


def test_verify_finds_pictures_that_only_begin_well(lines: Path, tmp_path: Path, convert: Any, faults: Any) -> None:
    damaged = tmp_path / "images" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert convert("jsonl", lines, out=tmp_path / "quick")["faults"] == {}
    assert convert("jsonl", lines, verify=True)["faults"] == {"corrupt picture": len(faults())}
    assert "images/1.png" in faults()[0]["message"]


def test_nothing_that_could_be_written_is_an_error(tmp_path: Path, convert: Any, write_lines: Any) -> None:
    file = write_lines(tmp_path / "x.jsonl", [{"content": "one"}, {"content": "two"}])
    with pytest.raises(
        ValueError, match=r"--val 0.001 puts none of 2 records into val; give another share, or more records"
    ):
        convert("jsonl", file, val_share=0.001)
    with pytest.raises(ValueError, match="none of 1 records could be written: 1 bad record"):
        convert("jsonl", write_lines(tmp_path / "y.jsonl", [{"content": ""}]), out=tmp_path / "out2")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="has no records"):
        convert("jsonl", tmp_path / "empty.jsonl", out=tmp_path / "out3")
    assert not (tmp_path / "out3").exists()
    with pytest.raises(ValueError, match=r"cannot read .*gone.jsonl: No such file"):
        convert("jsonl", tmp_path / "gone.jsonl")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"val_share": 1.0}, "--val must be a share between 0 and 1, got 1.0"),
        ({"limit": 0}, "--limit must be at least 1"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"shard_bytes": 0}, "--shard-mb must be above 0"),
        ({"max_faults": 2.0}, "--max-faults must be a share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(lines: Path, convert: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        convert("jsonl", lines, **options)


def die(chunk: list[int]) -> list[int]:
    os.kill(os.getpid(), 9)
    return chunk


def fail(chunk: list[int]) -> list[int]:
    raise OSError(errno.EIO, "Input/output error", f"file{chunk[0]}")


def square(chunk: list[int]) -> list[int]:
    return [number**2 for number in chunk]


@pytest.mark.long
def test_workers_keep_the_order_pass_errors_on_and_tell_when_one_dies() -> None:
    with Workers(2) as workers:
        found = [one for chunk in workers.map(square, ([n, n + 1] for n in range(0, 100, 2))) for one in chunk]
        assert found == [number**2 for number in range(100)]
        assert list(workers.map(square, [])) == []
        with pytest.raises(OSError, match="file7"):
            list(workers.map(fail, [[7]]))
    with Workers(2) as workers, pytest.raises(ValueError, match=r"a worker was killed by signal 9; .* fewer --workers"):
        list(workers.map(die, [[1], [2]]))


def test_a_picture_is_read_whole(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert read_picture(tmp_path, "a") == data == read_picture(tmp_path, data)
