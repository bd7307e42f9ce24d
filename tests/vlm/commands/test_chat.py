"""`vlm chat`: lines in, answers out."""

import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
Chat = Callable[..., tuple[int, list[str], str]]
ROOT = Path(__file__).resolve().parents[3]
END = ("--stop", "\n")  # so that an answer is a line


@pytest.fixture
def chat(vlm: Vlm, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Lines piped into a chat; gives the exit code, the printed lines and the errors."""

    def run(*lines: str, options: tuple[str, ...] = ()) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        arguments = ("--model", str(model_folder), "--max-new-tokens", "6", *END)
        code, out, err = vlm("chat", *arguments, *options)
        told = [line for line in err.splitlines() if not line.startswith("(cut off")]
        return code, out.split("\n")[:-1], "\n".join(told)

    return run


def test_the_first_answer_is_that_of_generate_and_nothing_else_is_printed(
    chat: Chat, vlm: Vlm, model_folder: Path
) -> None:
    options = ("--max-new-tokens", "6", *END)
    alone = vlm("generate", "--model", str(model_folder), "--prompt", "Hello there", *options)[1]
    assert chat("Hello there") == (0, [alone.rstrip("\n")], "")


def test_the_history_counts_until_it_is_reset(chat: Chat) -> None:
    code, out, err = chat("A red cat", "What is it?", "/reset", "What is it?", "/reset", "A red cat", "What is it?")
    assert (code, err, len(out)) == (0, "", 5)
    first, second, fresh, *again = out
    assert second != fresh
    assert again == [first, second]


def test_undo_forgets_the_last_message(chat: Chat) -> None:
    asked = chat("One", "Three", "/info")[1]
    undone = chat("One", "Two and more", "/undo", "Three", "/info")[1]
    assert [undone[0], *undone[2:]] == asked
    assert re.fullmatch(r"\(\d+ tokens of 200 used\)", asked[-1])


def test_pictures_go_with_the_next_message(chat: Chat, vlm: Vlm, model_folder: Path, pictures: Path) -> None:
    spaced = pictures / "a red one.PNG"
    shutil.copy(pictures / "red.png", spaced)
    images = ("--image", str(pictures / "red.png"), "--image", str(pictures / "blue.png"))
    options = ("--max-new-tokens", "6", *END)
    alone = vlm("generate", "--model", str(model_folder), *images, "--prompt", "Which {image} or {image}?", *options)[1]
    for red in (str(spaced), f"'{spaced}'", f'"{spaced}"', str(spaced).replace(" ", "\\ ")):
        code, out, err = chat(f"/image {red}", f"/image {pictures / 'blue.png'}", "Which {image} or {image}?", "And?")
        assert (code, err) == (0, "")
        assert out[0] == alone.rstrip("\n")
        assert len(out) == 2


def test_a_path_may_begin_at_home(chat: Chat, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pictures))
    assert chat("/image ~/red.png", "What?")[1:] == chat(f"/image {pictures / 'red.png'}", "What?")[1:]


def test_undo_takes_back_a_picture_first(chat: Chat, pictures: Path) -> None:
    assert chat("One", f"/image {pictures / 'red.png'}", "/undo", "Two") == chat("One", "Two")


def test_a_fault_is_one_line_and_the_chat_goes_on(chat: Chat, pictures: Path) -> None:
    (pictures / "cut.png").write_bytes((pictures / "red.png").read_bytes()[:60])
    faults = {
        "/image": "/image needs the path of a picture",
        "/image gone.png": "cannot read the picture gone.png: No such file or directory",
        f"/image {pictures / 'words.txt'}": "words.txt: picture of 10 bytes begins with",
        f"/image {pictures / 'cut.png'}": "cut.png: picture of 60 bytes cannot be decoded",
        "/image ~no-such-user/red.png": "cannot read the picture ~no-such-user/red.png",
        "/undo": "",
        "/undo it": "/undo stands alone, got 'it'; /help lists the commands",
        "/reste": "unknown command /reste; /help lists the commands",
        "Is it {image}?": "1 {image} marks but 0 pictures were given",
        "word " * 300: "200",
    }
    code, out, err = chat(*faults, "Hello", "", "  ")
    assert code == 0
    assert out == chat("Hello")[1]
    for line, told in zip(err.splitlines(), faults.values(), strict=True):
        assert line.startswith("vlm: error: ")
        assert told in line


def test_a_message_that_is_too_long_leaves_the_history_as_it_was(chat: Chat) -> None:
    code, out, err = chat("One", "word " * 300, "Two")
    assert code == 0
    assert err.count("vlm: error:") == 1
    assert out == chat("One", "Two")[1]


def test_the_system_text_and_the_length_count(chat: Chat) -> None:
    plain, told = chat("Hello", "/info")[1], chat("Hello", "/info", options=("--system", "Speak of cats only"))[1]
    assert plain != told
    code, out, err = chat("Hello there, how are you?" * 9, "/info", options=("--max-tokens", "40"))
    assert code == 0
    assert err.startswith("vlm: error: the talk has ")
    assert err.endswith("; say less")
    assert "of 40 used" in out[0]


def test_an_answer_is_as_long_as_there_is_room(chat: Chat) -> None:
    code, out, err = chat("Hello", "/info", options=("--max-tokens", "30", "--max-new-tokens", "512"))
    assert (code, err, len(out)) == (0, "", 2)
    assert int(out[1].split()[0][1:]) <= 30
    code, out, err = chat("Hello", *["More " * 9] * 4, "/reset", "Hello", options=("--max-tokens", "50"))
    assert code == 0
    assert out[0] == out[-1]
    assert err.splitlines()[-1].endswith("; /reset begins anew, /undo forgets the last message")


def test_the_least_length_of_a_talk_is_enough(chat: Chat) -> None:
    needed = re.search(r"need (\d+); give more", chat("?", options=("--max-tokens", "1"))[2])
    assert needed is not None
    assert chat("?", options=("--max-tokens", needed[1]))[2] == ""
    code, _, err = chat("?", options=("--max-tokens", str(int(needed[1]) - 1)))
    assert (code, err.count("\n")) == (2, 0)
    assert "but the shortest message and an answer of one token need" in err


def test_the_seeds_begin_anew_after_the_last(chat: Chat) -> None:
    code, out, err = chat("Hello", "And?", options=("--temperature", "1", "--seed", str(2**63 - 1)))
    assert (code, err, len(out)) == (0, "", 2)


def test_another_draw_after_undo_and_the_same_chat_for_the_same_seed(chat: Chat) -> None:
    lines = ("Hello", "/undo", "Hello")
    draws = ("--temperature", "2", "--seed", "1")
    code, out, _ = chat(*lines, options=draws)
    assert code == 0
    assert out[0] != out[1]
    assert chat(*lines, options=draws)[1] == out


def test_help_lists_every_command(chat: Chat) -> None:
    out = "\n".join(chat("/help", "/quit", "never asked")[1])
    assert re.findall(r"^/\w+", out, re.MULTILINE) == ["/image", "/undo", "/reset", "/info", "/quit"]
    assert out.endswith("tokens of 200 used)")


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pieces: list[str] = []

    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            if pieces[1:] == [text]:
                signal.raise_signal(signal.SIGINT)
            return len(text)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Interrupted())
        code, _, err = chat("Hello", "And now?", options=("--max-new-tokens", "60"))
    assert code == 0
    assert "(stopped; the message and its answer are forgotten)" in err
    first, second = "".join(pieces).split("\n")[:2]
    assert first
    assert len(first) < len(second)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--system", "a\udc80"), "--system is not UTF-8 from character 1 on"),
        (("--system", ""), "empty"),
        (("--temperature", "-1"), "temperature must be 0"),
        (("--max-tokens", "0"), "0"),
        (("--max-tokens", "100000"), "200"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(chat: Chat, options: tuple[str, ...], told: str) -> None:
    code, out, err = chat("Hello", options=options)
    assert (code, out) == (2, [])
    assert told in err
    assert "\n" not in err


def hear_ctrl_c() -> None:
    """The terminal is the process's own; and a run of the tests in the background would have it ignore interrupts."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@pytest.mark.long
def test_a_chat_in_a_terminal(model_folder: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "vlm.cli", "chat", "--model", str(model_folder), "--max-new-tokens", "6"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    os.close(theirs)
    shown = b""

    def await_prompts(count: int, seconds: float = 100) -> bool:
        nonlocal shown
        while shown.count(b"> ") < count:
            if not select.select([ours], [], [], seconds)[0]:
                return False
            shown += os.read(ours, 65536)
        return True

    try:
        assert await_prompts(1), shown
        os.write(ours, b"/info\n")
        assert await_prompts(2), shown
        # Python's input() sleeps through an interrupt that comes between its prompt and its wait for a key, until the
        # next key: so Ctrl-C is pressed again, as a user would.
        assert any(os.write(ours, b"half a li\x03") and await_prompts(3, seconds=2) for _ in range(50)), shown
        os.write(ours, b"\x04")
        assert process.wait(100) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"/help lists the commands" in shown
    assert b" tokens of 200 used)" in shown
    assert b"(/quit or Ctrl-D to leave)" in shown
