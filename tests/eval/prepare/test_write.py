"""What becomes of any release: the same bytes each time, all or nothing, and one-line errors."""

import importlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.shards import open_shards
from eval.prepare import write
from eval.prepare.release import Release, read_parquet, read_table, stored_picture
from eval.prepare.write import Item, prepare, write_benchmark
from eval.tasks import TASKS
from eval.tasks.shards import Benchmark
from vlm.cli import main


def items(picture: Callable[..., bytes], count: int = 5) -> Iterator[Item]:
    for number in range(count):
        yield Item(id=f"q{number}", content=(picture(number), "Which?"), choices=("a", "b"), answer=number % 2)


def test_the_same_release_gives_the_same_bytes(picture: Callable[..., bytes], tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "xy"]
    for folder in folders:
        write_benchmark(folder, "t", items(picture))
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names == [["dataset.json", "prepared.json", "shard-000.tar"]] * 2
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names[0])
    note = json.loads((folders[0] / "prepared.json").read_text())
    assert (note["task"], note["questions"], note["pictures"]) == ("t", 5, 5)


def test_shards_are_of_a_size_and_keep_the_order(
    picture: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "SHARD_RECORDS", 2)
    write_benchmark(tmp_path / "t", "t", items(picture))
    shards = open_shards(tmp_path / "t")
    assert [len(shard) for shard in shards.shards] == [2, 2, 1]
    assert [json.loads(shards.read(place)[1]["json"])["id"] for place in range(5)] == [f"q{n}" for n in range(5)]


def test_a_fault_in_the_middle_leaves_nothing_behind(picture: Callable[..., bytes], tmp_path: Path) -> None:
    twice = [*items(picture), next(items(picture))]
    with pytest.raises(ValueError, match="task t: questions 0 and 5 both have the id 'q0'"):
        write_benchmark(tmp_path / "deep" / "t", "t", twice)
    beyond = Item(id="q", content=("Which?",), choices=("a", "b"), answer=2)
    with pytest.raises(ValueError, match=r"task t: question 'q' cannot be one: .*2 choices, so answer must be"):
        write_benchmark(tmp_path / "deep" / "t", "t", [beyond])
    with pytest.raises(ValueError, match="the release holds no question for task t"):
        write_benchmark(tmp_path / "deep" / "t", "t", [])
    assert list(tmp_path.iterdir()) == []


def test_what_was_prepared_is_never_written_over(picture: Callable[..., bytes], tmp_path: Path) -> None:
    write_benchmark(tmp_path / "t", "t", items(picture))
    before = (tmp_path / "t" / "shard-000.tar").read_bytes()
    with pytest.raises(ValueError, match="exists; take it away to prepare t again"):
        write_benchmark(tmp_path / "t", "t", items(picture, 2))
    assert (tmp_path / "t" / "shard-000.tar").read_bytes() == before


def test_a_picture_of_another_kind_becomes_png_with_the_same_pixels(tmp_path: Path) -> None:
    file = io.BytesIO()
    drawn = Image.new("RGB", (4, 3), (10, 200, 30))
    drawn.save(file, "BMP")
    done = write_benchmark(tmp_path / "t", "t", [Item(id="q", content=(file.getvalue(), "?"), answers=("x",))])
    _, members = open_shards(tmp_path / "t").read(0)
    with Image.open(io.BytesIO(members["0.png"])) as kept:
        assert (kept.format, kept.tobytes()) == ("PNG", drawn.tobytes())
    assert done.redrawn == 1
    with pytest.raises(ValueError, match="task t: question 'q': a picture cannot be read"):
        write_benchmark(tmp_path / "u", "t", [Item(id="q", content=(b"no picture", "?"), answers=("x",))])


@pytest.mark.parametrize("name", [name for name, make in TASKS.items() if isinstance(make().questions, Benchmark)])
def test_every_benchmark_has_a_converter_that_refuses_another_folder(name: str, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    (release / "holiday.jpg").touch()
    with pytest.raises(ValueError, match=re.escape(str(release)) + r" has no .*; needed: .*; there: holiday\.jpg$"):
        prepare(name, release, tmp_path / "benchmarks")
    with pytest.raises(ValueError, match=r"no folder .*; it must hold the official release: "):
        prepare(name, tmp_path / "nowhere", tmp_path / "benchmarks")
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_a_task_without_a_converter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task 'nothing' has no converter eval\.prepare\.nothing"):
        prepare("nothing", tmp_path, tmp_path)


def test_a_release_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    release = Release(tmp_path / "release", "pictures")
    with pytest.raises(ValueError, match="names a picture outside itself"):
        release.picture(release.folder / ".." / "secret.png")


def test_broken_tables_and_parquet_are_named(tmp_path: Path) -> None:
    table, rows = tmp_path / "x.tsv", tmp_path / "x.parquet"
    table.write_text("a\tb\n1\n")
    with pytest.raises(ValueError, match=r"x\.tsv: line 2 has not as many fields as the header"):
        list(read_table(table))
    rows.write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as parquet"):
        list(read_parquet(rows))
    with pytest.raises(ValueError, match="here: the picture is no base64 text"):
        stored_picture("no base64!", "here")
    with pytest.raises(ValueError, match="here: there is no picture in it"):
        stored_picture(None, "here")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"reading x\.parquet needs pyarrow; install it with pip install"):
        list(read_parquet(tmp_path / "x.parquet"))


def test_the_command_says_what_is_there_and_that_it_is_not_the_published_number(
    bench: Any, picture: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "Which?", "options": ["a", "a"], "answer": "1", "image": {"bytes": picture(3), "path": None}}
    bench.parquet("data/test-0.parquet", [row])
    assert main(["eval", "prepare", "ai2d/masked", "--from", str(bench.release)]) == 0
    said = capsys.readouterr().out
    assert f"ai2d/masked: 1 questions, 1 pictures in {bench.benchmarks / 'ai2d/masked'}" in said
    assert "the published split has 3,088 questions" in said
    assert "1 questions have a choice twice" in said
    assert main(["eval", "tasks"]) == 0
    assert re.search(r"ai2d/masked +ready", capsys.readouterr().out)


def test_a_task_that_is_not_prepared_says_how(bench: Any) -> None:
    with pytest.raises(ValueError, match=r"task mmstar has no shards .*vlm eval prepare mmstar --from FOLDER"):
        bench.ask("mmstar", {})


def test_a_bad_record_of_a_prepared_benchmark_is_an_error(bench: Any, picture: Callable[..., bytes]) -> None:
    write_benchmark(bench.benchmarks / "mmstar", "mmstar", items(picture))
    from data.shards import write_manifest, write_shard

    write_shard(bench.benchmarks / "mmstar" / "shard-001.tar", [("x", {"json": b'{"id": "x", "content": "?"}'})])
    write_manifest(bench.benchmarks / "mmstar")
    with pytest.raises(
        ValueError, match=r"task mmstar: 1 records of .* cannot be used, the first: record 'x' has nothing"
    ):
        bench.ask("mmstar", {})
