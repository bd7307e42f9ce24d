import json
import multiprocessing
import os
from pathlib import Path

import pytest

from data.quarantine import Quarantine


def entry(key: str, sha256: str = "00") -> dict[str, object]:
    return {"shard": "a.tar", "key": key, "reason": "bad JSON", "sha256": {"json": sha256}, "source": "a"}


def keys(file: Path) -> list[str]:
    return [json.loads(line)["key"] for line in file.read_text().splitlines() if line.startswith("{")]


def test_a_record_is_listed_once_over_restarts_unless_its_bytes_change(tmp_path: Path) -> None:
    file = tmp_path / "run" / "quarantine.jsonl"
    first = Quarantine(file)
    assert not file.parent.exists()
    for key in ("1", "2", "1"):
        first.add(entry(key))
    second = Quarantine(file)
    for key in ("2", "ä\ud800", "3"):
        second.add(entry(key))
    second.add(entry("3", "11"))
    first.add(entry("3"))
    assert keys(file)[:2] == ["1", "2"]
    assert len(keys(file)) == 5
    assert set(json.loads(file.read_text().splitlines()[0])) == {"shard", "key", "reason", "sha256", "source"}


def list_many(file: Path, start: int) -> None:
    quarantine = Quarantine(file)
    for number in range(60):
        quarantine.add(entry(str((start + number) % 60)))


def test_processes_that_find_the_same_records_list_each_once(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=list_many, args=(file, start)) for start in (0, 5, 30)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    assert sorted(keys(file), key=int) == [str(number) for number in range(60)]


def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    Quarantine(file).add(entry("1"))
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:30])
    late = Quarantine(file)
    for key in ("2", "1", "3", "2"):
        late.add(entry(key))
    lines = file.read_text().splitlines()
    assert [json.loads(line)["key"] for line in (lines[0], *lines[2:])] == ["1", "2", "3"]
    file.write_bytes(b"")  # somebody began anew
    late.add(entry("2"))
    assert keys(file) == ["2"]


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="nothing is full here")
def test_a_list_that_cannot_be_written_is_told_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    full = Quarantine("/dev/full")
    full.add(entry("1"))
    full.add(entry("2"))
    assert len(caplog.records) == 1
    assert "cannot list records left out in /dev/full (No space left on device)" in caplog.text
