"""`vlm data write` as a user has it: a folder of pictures, shards that are read, a run that is killed and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from data.sample import Part, parse_sample
from data.shards import open_shards

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
Vlm = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 captioned pictures of three kinds in four folders."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(200):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        place = folder / f"part {number % 4}"
        place.mkdir(exist_ok=True)
        picture = Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)
        picture.save(place / f"picture-{number}.{('jpg', 'png', 'webp')[number % 3]}")
        (place / f"picture-{number}.txt").write_text(f"picture number {number}, ünïcode\n", encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".progress.jsonl"
    }


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which hears Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", "vlm.cli", "data", "write", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def children_of(process: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


# webdataset leaves closing its shards to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_folder_of_pictures_becomes_shards_that_are_read(vlm: Vlm, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    asked = (
        "data",
        "write",
        "--from",
        "pictures",
        str(photos),
        "--out",
        str(out),
        "--shard-records",
        "64",
        "--workers",
        "1",
    )
    code, text, err = vlm(*asked)
    assert (code, text.splitlines()[0]) == (0, "200 records in: 200 written, 0 faults, 0 left out")
    assert "writing: 200 of 200" in err
    shards = open_shards(out)
    assert [len(shard) for shard in shards.shards] == [64, 64, 64, 8]
    found = [parse_sample(*shards.read(number)) for number in range(200)]
    names = sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("*") if path.suffix != ".txt" and path.is_file()
    )
    assert [sample.id for sample in found] == names
    for sample in found:
        number = sample.id.partition("-")[2].partition(".")[0]
        ((member, data),) = sample.images.items()
        assert sample.content == (Part(image=member), Part(text=f"picture number {number}, ünïcode"))
        assert member.partition(".")[2] == sample.id.rpartition(".")[2]
        assert data == (photos / sample.id).read_bytes()
    assert json.loads((out / "dataset.json").read_text())["samples"] == 200
    plain = [list(webdataset.WebDataset(str(path), shardshuffle=False)) for path in sorted(out.glob("*.tar"))]
    assert [record["__key__"] for shard in plain for record in shard] == [f"{number:08}" for number in range(200)]
    code, text, _ = vlm(*asked, "--json")
    assert (code, json.loads(text)["written"]) == (0, 200)


def test_one_and_two_workers_write_the_same_bytes_at_any_time_from_any_folder(
    vlm: Vlm, photos: Path, tmp_path: Path
) -> None:
    for workers in ("1", "2"):
        code, _, err = vlm(
            *("data", "write", "--from", "pictures", str(photos), "--out", str(tmp_path / workers)),
            *("--shard-mb", "0.2", "--val", "0.1", "--workers", workers),
        )
        assert code == 0, err
    first = contents(tmp_path / "1")
    assert first == contents(tmp_path / "2")
    assert {"train/dataset.json", "val/dataset.json", "train/000001.tar"} <= first.keys()
    assert not any(str(tmp_path).encode() in data for data in first.values())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(vlm: Vlm, photos: Path, tmp_path: Path, workers: str) -> None:
    options = ("--from", "pictures", str(photos), "--shard-records", "10", "--workers", workers)
    assert vlm("data", "write", *options, "--out", str(tmp_path / "whole"))[0] == 0
    out = tmp_path / "out"
    kills = 0
    for wanted in (3, 9, 15):
        run = start(*options, "--out", str(out))
        try:
            while len(list(out.glob("*.tar"))) < wanted and run.poll() is None:
                time.sleep(0.002)
            helpers = children_of(run.pid) if run.poll() is None else []
        finally:
            run.kill()
            run.communicate()
        kills += run.returncode == -signal.SIGKILL
        deadline = time.monotonic() + 20
        while any(is_alive(helper) for helper in helpers):  # they end by themselves when the main process is gone
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for path in out.glob("*.tar"):
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    assert kills >= 2
    assert vlm("data", "write", *options, "--out", str(out))[0] == 0
    assert contents(out) == contents(tmp_path / "whole")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_whole_shards_alone(photos: Path, tmp_path: Path, sent: int, code: int) -> None:
    out = tmp_path / "out"
    run = start("--from", "pictures", str(photos), "--out", str(out), "--shard-records", "5", "--workers", "2")
    try:
        while len(list(out.glob("*.tar"))) < 2:
            assert run.poll() is None
            time.sleep(0.002)
        run.send_signal(sent)
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == code
    assert "Traceback" not in err
    assert not (out / "dataset.json").exists()
    assert all(path.suffix == ".tar" or path.name == ".progress.jsonl" for path in out.iterdir())


def test_faults_give_exit_code_1_and_are_named(vlm: Vlm, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (20, 20), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)
    (folder / "b.png").write_bytes(b"GIF89a")
    code, out, _ = vlm(
        "data", "write", "--from", "pictures", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"
    )
    assert code == 1
    assert "fault: 1 no JPEG, PNG or WebP" in out
    (line,) = (tmp_path / "out" / "faults.jsonl").read_text().splitlines()
    assert json.loads(line)["where"] == "b.png"
    again = vlm("data", "write", "--from", "pictures", str(folder), "--out", str(tmp_path / "out"), "--workers", "1")
    assert (again[0], again[1]) == (1, out)


def test_what_is_wrong_with_the_command_is_one_line(vlm: Vlm, photos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for arguments, told in {
        ("--from", "llava", str(photos)): "no file there ends in .json, .jsonl",
        ("--from", "tars", str(photos)): "unknown format 'tars'; known formats: pictures, jsonl, llava",
        ("--from", "img2dataset", str(photos)): "are read as they are and need no conversion",
        ("--from", "pictures", str(photos), "--captions", "gone.csv"): "gone.csv is not there",
        ("--from", "pictures", str(photos), "--val", "2"): "--val must be a share between 0 and 1",
    }.items():
        code, text, err = vlm("data", "write", *arguments, "--out", out)
        assert (code, text, len(err.splitlines())) == (2, "", 1), err
        assert told in err
    assert not Path(out).exists()


def test_the_command_is_light() -> None:
    """Torch takes seconds to import and is needed for nothing but --verify."""
    lines = "import sys, vlm.commands.data_write, data.convert.conversion; print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    assert subprocess.check_output([sys.executable, "-c", lines], text=True, env=env).strip() == "False"
