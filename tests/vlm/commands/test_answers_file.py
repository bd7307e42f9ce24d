"""The file of `vlm generate --output`: whole lines, resumed, and refused where its answers are of something else."""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def generate(vlm: Vlm, model_folder: Path, tmp_path: Path, pictures: Path) -> Callable[..., tuple[int, str, str]]:
    """The command on ten lines, one of them about a picture, with the answers in answers.jsonl."""
    lines = [{"id": f"q{number}", "prompt": f"Say {number}"} for number in range(10)]
    lines[4]["images"] = ["pictures/red.png"]  # type: ignore[assignment]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(*arguments: str, model: Path = model_folder) -> tuple[int, str, str]:
        files = ("--input", str(path), "--output", str(tmp_path / "answers.jsonl"))
        return vlm("generate", "--model", str(model), *files, "--max-new-tokens", "4", "--batch", "3", *arguments)

    return run


def read_records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | int]:
    """The ids of the requests that are put to the model, as they are."""
    import vlm.commands.answers

    ids: list[str | int] = []
    request = vlm.commands.answers.request
    monkeypatch.setattr("vlm.commands.answers.request", lambda one, model: (ids.append(one.id), request(one, model))[1])
    return ids


def test_a_killed_run_goes_on_and_ends_with_the_same_file(
    generate: Vlm, asked: list[str | int], tmp_path: Path
) -> None:
    assert generate()[0] == 0
    out = tmp_path / "answers.jsonl"
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"", lines[0][:3], b"".join(lines[:3]) + lines[3][:20], b"".join(lines[:9]) + lines[9][:-1]):
        out.write_bytes(kept)
        asked.clear()
        assert generate() == (0, "", "")
        assert asked == [f"q{number}" for number in range(kept.count(b"\n"), 10)]
        assert [strip(line) for line in out.read_bytes().splitlines()] == [strip(line) for line in lines]


def strip(line: bytes) -> dict[str, Any]:
    """A line but for its log-probability, whose last digits hang on the neighbours in the batch."""
    record = json.loads(line)
    record["logprob"] = round(record["logprob"], 2)
    return record


def test_a_run_stopped_between_answers_has_whole_lines(
    generate: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm.commands.answers_file import AnswersFile

    append = AnswersFile.append
    count = [0]

    def stop_at_the_fifth(file: AnswersFile, record: dict[str, Any]) -> None:
        count[0] += 1
        if count[0] == 5:
            raise KeyboardInterrupt
        append(file, record)

    with monkeypatch.context() as patch:
        patch.setattr(AnswersFile, "append", stop_at_the_fifth)
        assert generate()[0] == 130
    assert len((tmp_path / "answers.jsonl").read_bytes().splitlines()) == 4
    assert generate() == (0, "", "")
    assert [record["id"] for record in read_records(tmp_path)] == [f"q{number}" for number in range(10)]


def test_a_finished_run_loads_no_model_and_is_put_in_order(
    generate: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate()[0] == 0
    out = tmp_path / "answers.jsonl"
    whole = out.read_bytes()
    monkeypatch.setattr("vlm.inference.load.load_model", lambda *_: pytest.fail("the model was loaded"))
    assert generate() == (0, "", "")
    # As it is where a run is killed after its last answer.
    out.write_bytes(b"".join(reversed(whole.splitlines(keepends=True))))
    assert generate() == (0, "", "")
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "pictures", "requests.jsonl"]


def test_what_failed_is_asked_again_and_its_answer_takes_the_place_of_the_error(
    generate: Vlm, asked: list[str | int], tmp_path: Path, pictures: Path
) -> None:
    picture = (pictures / "red.png").read_bytes()
    (pictures / "red.png").unlink()
    assert generate()[0] == 1
    assert generate()[0] == 1
    (pictures / "red.png").write_bytes(picture)
    asked.clear()
    assert generate() == (0, "", "")
    assert asked == ["q4"]
    records = read_records(tmp_path)
    assert [record["id"] for record in records] == [f"q{number}" for number in range(10)]
    assert all(record["error"] is None for record in records)


@pytest.mark.parametrize(
    ("change", "told", "count"),
    [
        ("model", "'q0' is of another model", 10),
        ("sampling", "'q0' is of other sampling options", 10),
        ("prompt", "'q3' is of another prompt", 1),
        ("picture", "'q4' is of another prompt", 1),
        ("gone", "'q4' is of another prompt", 1),
        ("fewer", "'q1' is not among the requests", 9),
    ],
)
def test_answers_of_something_else_are_not_taken_for_done(
    generate: Vlm, change: str, told: str, count: int, tmp_path: Path, pictures: Path, model_folder: Path
) -> None:
    assert generate()[0] == 0
    out, requests, options, model = tmp_path / "answers.jsonl", tmp_path / "requests.jsonl", [], model_folder
    if change == "model":
        model = shutil.copytree(model_folder, tmp_path / "model")
        weights = bytearray((model / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (model / "model.safetensors").write_bytes(weights)
    elif change == "sampling":
        options = ["--max-new-tokens", "5"]
    elif change == "prompt":
        requests.write_text(requests.read_text().replace("Say 3", "Say three"))
    elif change == "picture":
        shutil.copy(pictures / "blue.png", pictures / "red.png")
    elif change == "gone":
        (pictures / "red.png").unlink()
    else:
        requests.write_text(requests.read_text().splitlines()[0])
    before = out.read_bytes()
    code, _, err = generate(*options, model=model)
    assert code == 2
    assert f"{out} holds answers that this command would not give: {told}" in err
    assert f" ({count} such)" in err
    assert "to go on, give the model, options and requests that it was begun with; else choose another --output" in err
    assert err.count("\n") == 1
    assert out.read_bytes() == before


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"id": "q0"}\n', "[]\n"])
def test_a_file_of_something_else_is_left_alone(generate: Vlm, tmp_path: Path, text: str) -> None:
    (tmp_path / "answers.jsonl").write_text(text)
    code, _, err = generate()
    assert code == 2
    assert "line 1 is no answer of `vlm generate`; choose another --output" in err
    assert (tmp_path / "answers.jsonl").read_text() == text


def test_a_place_that_is_no_file_is_refused(vlm: Vlm, model_folder: Path, tmp_path: Path) -> None:
    command = ("generate", "--model", str(model_folder), "--prompt", "a", "--output")
    code, _, err = vlm(*command, str(tmp_path))
    assert code == 2
    assert "is no file" in err
    (tmp_path / "file").touch()
    code, _, err = vlm(*command, str(tmp_path / "file" / "a.jsonl"))
    assert code == 2
    assert "choose another folder with --output" in err


def test_the_requests_are_not_overwritten(vlm: Vlm, model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a"}\n')
    code, _, err = vlm("generate", "--model", str(model_folder), "--input", str(path), "--output", str(path))
    assert code == 2
    assert "is the --input" in err
    assert path.read_text() == '{"prompt": "a"}\n'


def test_two_processes_do_not_write_one_file(generate: Vlm, tmp_path: Path) -> None:
    with (tmp_path / "answers.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = generate()
    assert code == 2
    assert "is being written by another process" in err
