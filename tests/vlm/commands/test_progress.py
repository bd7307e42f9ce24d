"""The bar in a terminal: what is printed meanwhile comes out as it is."""

import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
LINE = "1\tan answer [bold]of[/bold] 3.14 words, longer than the terminal is wide: " + "word " * 30 + "end"
CODE = """
import sys
from vlm.training.progress import TrainingBar, progress
line = sys.argv[2]
def tell():
    print(line, flush=True)
    print(line, file=sys.stderr)
    print("half", end="", flush=True)
if sys.argv[1] == "progress":
    with progress("answers", 2) as show:
        show(1, 2)
        tell()
        show(2, 2)
else:
    bar = TrainingBar(0, 2)
    bar.show_step(1)
    tell()
    bar.stop()
print(" whole")
"""


def shown_by(kind: str, to_file: Path | None = None) -> str:
    """What a terminal of 60 columns gets."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    out = theirs if to_file is None else os.open(to_file, os.O_WRONLY | os.O_CREAT)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, kind, LINE],
        stdout=out,
        stderr=theirs,
        env=env | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    if to_file is not None:
        os.close(out)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    assert process.wait(60) == 0, shown
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("kind", ["progress", "training"])
def test_lines_printed_beside_a_bar_come_out_as_they_are(kind: str) -> None:
    shown = shown_by(kind)
    assert shown.count(LINE + "\n") == 2
    assert "half whole\n" in shown
    assert "/2" in shown


def test_what_goes_to_a_file_stays_there(tmp_path: Path) -> None:
    shown = shown_by("progress", tmp_path / "out")
    assert (tmp_path / "out").read_text() == f"{LINE}\nhalf whole\n"
    assert shown.count(LINE + "\n") == 1
