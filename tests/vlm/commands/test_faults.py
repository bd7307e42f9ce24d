"""What a user may do wrong beside the arguments: odd files and lines, huge numbers, a closed pipe, too little memory."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm.commands.requests import MAX_PICTURE_BYTES, read_picture

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]


def test_a_picture_is_a_regular_file_of_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    for path, told in {
        tmp_path / "pipe.png": "it is a pipe",
        tmp_path / "folder.png": "it is a folder",
        Path("/dev/zero"): "it is a device",
        tmp_path / "large.png": "it has 268,435,457 bytes, the limit is 268,435,456",
    }.items():
        with pytest.raises(ValueError, match=f"^cannot read the picture {path}: {told}"):
            read_picture(path)


def test_faults_of_lines_are_told_in_the_words_of_lines(vlm: Vlm, model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    lines = [
        {"id": "a", "prompt": "x", "images": ["a\0b"]},
        {"id": "b", "prompt": "x", "stop": ""},
        {"id": "c", "prompt": "x", "stop": ["y", ""]},
        {"id": "d", "prompt": "x", "top_k": 10**400, "temperature": 1},
        {"id": "e", "prompt": "x"},
    ]
    file.write_bytes(b"\xef\xbb\xbf" + "".join(json.dumps(line) + "\n" for line in lines).encode())
    options = ("--model", str(model_folder), "--max-new-tokens", "3", "--json")
    code, out, _ = vlm("generate", *options, "--input", str(file))
    assert code == 1
    name, stop, stops, top_k, none = (json.loads(line)["error"] for line in out.splitlines())
    assert name.startswith("cannot read the picture '")
    assert name.endswith("/a\\x00b': no file name has a NUL character; mend the path")
    assert stop == "line 2 needs a text or a list of texts, none of them empty, as stop, got ''"
    assert stops == "line 3 needs a text or a list of texts, none of them empty, as stop, got ['y', '']"
    assert top_k.startswith("line 4 needs a whole number below 2**31 or null as top_k, got 1000")
    assert none is None


def test_empty_standard_input_is_called_so(vlm: Vlm, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    code, _, err = vlm("generate", "--model", str(model_folder), "--input", "-")
    assert code == 2
    assert err.startswith("vlm: error: standard input has no requests; ")


def test_huge_numbers_are_refused(vlm: Vlm, model_folder: Path) -> None:
    asked = ("generate", "--model", str(model_folder), "--prompt", "x")
    for name in ("--token-budget", "--batch"):
        assert vlm(*asked, name, "9" * 22) == (
            2,
            "",
            f"vlm: error: {name} must be at least 1 and at most 2147483648, got {'9' * 22}\n",
        )


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "the memory does not suffice (MemoryError); give less at once, or a smaller model"),
        (OutOfMemoryError("CUDA out of memory.\nTried"), "the memory does not suffice (CUDA out of memory. Tried); "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the memory does not suffice (Default"),
        (OverflowError("too big"), "a number is too large (too big); give a smaller one"),
        (BrokenPipeError(32, "Broken pipe"), "[Errno 32] Broken pipe"),  # of another pipe than the output
    ],
)
def test_errors_of_the_machine_are_one_line(
    error: Exception, told: str, vlm: Vlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("vlm.cli.dispatch", fail)
    code, out, err = vlm("plan")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_other_errors_are_no_fault_of_the_user(vlm: Vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str]) -> int:
        raise RuntimeError("ours")

    monkeypatch.setattr("vlm.cli.dispatch", fail)
    with pytest.raises(RuntimeError, match="ours"):
        vlm("plan")


@pytest.mark.parametrize("is_both", [False, True])
@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"]])
def test_a_reader_that_goes_ends_the_command_quietly(arguments: list[str], is_both: bool) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    errors = theirs if is_both else subprocess.PIPE
    command = [sys.executable, "-m", "vlm.cli", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=theirs, stderr=errors, cwd=ROOT, env=env, timeout=100)
    os.close(theirs)
    assert done.returncode == 141
    assert not done.stderr


def test_ctrl_c_ends_the_line_of_a_streamed_answer(
    vlm: Vlm, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            shown.append(text)
            if len(shown) == 2:
                signal.raise_signal(signal.SIGINT)
            return len(text)

    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Terminal())
        options = ("--model", str(model_folder), "--prompt", "Hello", "--max-new-tokens", "60", "--stream")
        code, _, err = vlm("generate", *options)
    assert (code, err) == (130, "interrupted\n")
    assert "".join(shown).endswith("\n")
