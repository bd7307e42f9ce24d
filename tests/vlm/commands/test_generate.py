"""`vlm generate`, from its arguments to what it prints and writes."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vlm.commands.requests import prompt_parts

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
Generate = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]
KEYS = ["id", "prompt", "answer", "finish", "error", "logprob", "prompt_tokens", "answer_tokens"]


@pytest.fixture
def generate(vlm: Vlm, model_folder: Path) -> Generate:
    """The command with the tiny model and short answers."""

    def run(*arguments: object) -> tuple[int, str, str]:
        short = () if "--max-new-tokens" in arguments else ("--max-new-tokens", "6")
        return vlm("generate", "--model", str(model_folder), *short, *(str(one) for one in arguments))

    return run


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def requests(tmp_path: Path, pictures: Path) -> Path:
    """Nine requests, with and without pictures, each with settings of its own or none."""
    lines: list[dict[str, Any]] = [{"id": f"q{number}", "prompt": f"Say {number}"} for number in range(6)]
    lines[1] |= {"prompt": "Is {image} like {image}?", "images": ["pictures/red.png", "pictures/blue.png"]}
    lines[2] |= {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "seed": 7}
    lines[3] |= {"max_new_tokens": 2, "repetition_penalty": 1.5}
    lines.append({"id": 6, "prompt": "What is this?", "images": ["pictures/green.png"]})
    lines.append({"prompt": "no id"})
    lines.append({"id": "last", "prompt": "Say more", "stop": "e"})
    return write_lines(tmp_path / "requests.jsonl", lines)


def test_one_prompt_about_a_picture_is_answered(generate: Generate, pictures: Path) -> None:
    arguments = ("--image", pictures / "red.png", "--prompt", "What is this?")
    code, plain, err = generate(*arguments)
    assert code == 0
    code, out, _ = generate(*arguments, "--json")
    told = json.loads(out)
    assert list(told) == KEYS
    assert plain == told["answer"] + "\n"
    assert ("cut off after 6 tokens" in err) == (told["finish"] == "length")
    assert told["error"] is None
    assert told["logprob"] < 0


def test_a_streamed_answer_is_the_same(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--prompt", "Tell me", "--max-new-tokens", 20)
    whole = generate(*arguments)
    assert generate(*arguments, "--stream") == whole
    parts: list[str] = []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            parts.append(text)
            return len(text)

    monkeypatch.setattr("sys.stdout", Terminal())
    generate(*arguments)
    assert "".join(parts) == whole[1]
    assert len([part for part in parts if part]) > 2


def test_several_prompts_are_answered_in_order_one_line_each(generate: Generate, pictures: Path) -> None:
    prompts = ["Name it.", "Is it red?", "Which one?"]
    image = ("--image", pictures / "red.png")
    code, out, _ = generate(*image, *(word for prompt in prompts for word in ("--prompt", prompt)))
    assert code == 0
    alone = [generate(*image, "--prompt", prompt)[1] for prompt in prompts]
    assert out.split("\n") == [*(" ".join(text.splitlines()) for text in alone), ""]


def test_every_picture_of_a_folder_is_asked_about(generate: Generate, pictures: Path) -> None:
    code, out, _ = generate("--images", pictures, "--prompt", "What is this?")
    assert code == 0
    by_file = dict(line.split("\t") for line in out.splitlines())
    assert list(by_file) == [str(pictures / f"{colour}.png") for colour in ("blue", "green", "red")]
    assert generate("--images", f"{pictures}/*.png", "--prompt", "What is this?")[1] == out
    shell = [pictures / "green.png", pictures / "blue.png"]
    code, out, _ = generate("--images", *shell, "--prompt", "What is this?")
    assert out.splitlines() == [f"{path}\t{by_file[str(path)]}" for path in shell]


def test_lines_are_answered_as_each_would_be_alone(generate: Generate, requests: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    code, told, err = generate("--input", requests, "--output", out)
    assert (code, told, err) == (0, "", "")
    records = read_lines(out)
    assert [record["id"] for record in records] == ["q0", "q1", "q2", "q3", "q4", "q5", 6, "line 8", "last"]
    assert all(list(record) == [*KEYS, "key"] for record in records)
    assert records[3]["answer_tokens"] <= 2
    pictures = ("--image", tmp_path / "pictures" / "red.png", "--image", tmp_path / "pictures" / "blue.png")
    drawn = ("--temperature", 1, "--top-k", 50, "--top-p", 0.9, "--seed", 7)
    assert generate("--prompt", "Is {image} like {image}?", *pictures)[1] == records[1]["answer"] + "\n"
    assert generate("--prompt", "Say 2", *drawn)[1] == records[2]["answer"] + "\n"
    assert generate("--prompt", "Say more", "--stop", "e")[1] == records[8]["answer"] + "\n"
    assert "e" not in records[8]["answer"]
    code, printed, _ = generate("--input", requests, "--json", "--batch", 2)
    assert code == 0
    same = [json.loads(line) for line in printed.splitlines()]
    for one, other in zip(same, records, strict=True):
        assert one["logprob"] == pytest.approx(other.pop("logprob"), abs=1e-3)  # other neighbours, other rounding
        assert {name: one[name] for name in KEYS if name != "logprob"} == {
            name: other[name] for name in one if name != "logprob"
        }


def test_requests_come_from_standard_input(
    generate: Generate, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    line = json.dumps({"id": "a", "prompt": "What?", "images": ["pictures/red.png"]})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    code, out, _ = generate("--input", "-")
    assert code == 0
    assert out == f"a\t{generate('--image', pictures / 'red.png', '--prompt', 'What?')[1]}"


def test_a_seed_repeats_a_draw_and_another_does_not(generate: Generate) -> None:
    said = [generate("--prompt", "Hello", "--temperature", 2, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_a_bad_request_is_an_error_of_its_own_and_the_others_are_answered(
    generate: Generate, requests: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "cut.png").write_bytes((pictures / "red.png").read_bytes()[:60])
    bad = {
        "gone": {"prompt": "What?", "images": ["gone.png"]},
        "cut": {"prompt": "What?", "images": ["pictures/red.png", "pictures/cut.png"]},
        "text": {"prompt": "What?", "images": ["pictures/words.txt"]},
        "empty": {"prompt": " "},
        "marks": {"prompt": "{image} {image}", "images": ["pictures/red.png"]},
        "cold": {"prompt": "What?", "temperature": -1},
        "kind": {"prompt": "What?", "seed": "one"},
        "key": {"prompt": "What?", "max_tokens": 3},
        "none": {},
        "long": {"prompt": "word " * 400},
    }
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    mixed = [{"id": name, **line} for name, line in bad.items()]
    write_lines(requests, [*mixed[:4], *lines, *mixed[4:]])
    with requests.open("a") as file:
        file.write("no JSON\n[1]\n")
    out = tmp_path / "answers.jsonl"
    code, told, err = generate("--input", requests, "--output", out)
    assert (code, told) == (1, "")
    assert err == f"vlm: 12 of 21 requests failed; {out} says why, and the same command asks them again\n"
    records = {record["id"]: record for record in read_lines(out)}
    assert sum(record["finish"] == "error" for record in records.values()) == 12
    for name, needed in {
        "gone": "cannot read the picture .*gone.png: No such file",
        "cut": "cut.png: picture of 60 bytes cannot be decoded",
        "text": "words.txt: picture of 10 bytes begins with",
        "empty": "the prompt is empty",
        "marks": "2 {image} marks but 1 pictures",
        "cold": "temperature must be 0 .* got -1",
        "kind": "needs a whole number as seed, got 'one'",
        "key": "unknown key 'max_tokens'; known keys: id, prompt, images, max_new_tokens",
        "none": "line .* has no prompt",
        "long": "200",
        "line 20": "line 20 cannot be read",
        "line 21": "line 21 needs to be a JSON object, got list",
    }.items():
        error = records[name]["error"]
        assert re.search(needed, error), error
        assert "\n" not in error
        assert records[name]["answer"] is records[name]["logprob"] is records[name]["key"] is None
    alone = tmp_path / "alone.jsonl"
    assert generate("--input", write_lines(requests, lines), "--output", alone)[0] == 0
    for record in read_lines(alone):
        if record["id"] != "line 8":
            assert records[record["id"]]["answer"] == record["answer"]


def test_printed_answers_keep_one_line_for_each_request(generate: Generate, pictures: Path) -> None:
    (pictures / "bad.png").write_text("no picture")
    code, out, err = generate("--images", pictures, "--prompt", "What?")
    assert code == 1
    assert [line.split("\t")[0].rsplit("/")[-1] for line in out.splitlines()] == [
        "bad.png",
        "blue.png",
        "green.png",
        "red.png",
    ]
    assert out.splitlines()[0].endswith("\t")
    first, last = err.splitlines()
    assert first.startswith(
        f"vlm: error: request {pictures / 'bad.png'}: {pictures / 'bad.png'}: picture of 10 bytes begins"
    )
    assert last == "vlm: 1 of 4 requests failed"


def test_a_mark_says_where_the_picture_stands() -> None:
    parts = prompt_parts("Is {image} like {image}?", ["0.png", "1.png"])
    assert [part.text or part.image for part in parts] == ["Is ", "0.png", " like ", "1.png", "?"]
    before = prompt_parts("What?", ["0.png"])
    assert [part.text or part.image for part in before] == ["0.png", "What?"]


def test_answers_go_to_the_file_while_the_bar_is_in_the_terminal(
    generate: Generate, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    arguments = ("--images", pictures, "--prompt", "What is this?")
    plain = generate(*arguments)
    monkeypatch.setenv("TERM", "xterm")  # a dumb one gets no bar
    monkeypatch.setattr("sys.stderr", Terminal())
    assert generate(*arguments) == plain
    assert "answers" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "3/3" in sys.stderr.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "What?", "--image", "missing.png"], "cannot read the picture missing.png: No such file"),
        (["--prompt", "a\udc80"], "the prompt is not UTF-8 from character 1 on"),
        (["--prompt", "{image}"], "1 {image} marks but 0 pictures"),
        (["--prompt", "What?", "--temperature", "-1"], "temperature must be 0"),
        (["--prompt", "What?", "--top-p", "0.5"], "top_p = 0.5 has no effect at temperature 0"),
        (["--prompt", "What?", "--batch", "0"], "--batch must be at least 1 and at most 2147483648, got 0"),
        (["--prompt", "What?", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--prompt", "word " * 400], "200"),
        ([], "nothing is asked; give --prompt, or --input"),
        (["--input", "gone.jsonl"], "cannot read the requests gone.jsonl: No such file"),
        (["--input", "x", "--prompt", "What?"], "--prompt has no effect with --input"),
        (["--prompt", "a", "--images", "nowhere"], "no pictures at nowhere"),
        (["--prompt", "a", "--prompt", "b", "--images", "x"], "--images goes with one --prompt"),
        (["--prompt", "a", "--output", "o.jsonl", "--json"], "--json has no effect with --output"),
        (["--prompt", "a", "--prompt", "b", "--stream"], "--stream prints the bare answer to a single --prompt"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_and_leave_nothing(
    generate: Generate, arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = generate(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err
    assert list(tmp_path.iterdir()) == []


def test_lines_with_one_id_are_refused(generate: Generate, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "twice.jsonl", [{"id": 1, "prompt": "a"}, {"id": "1", "prompt": "b"}])
    code, _, err = generate("--input", path)
    assert code == 2
    assert "lines 1 and 2 have the same id '1'" in err


@pytest.mark.long
def test_the_command_in_a_process_of_its_own(model_folder: Path, requests: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vlm.cli", "generate", "--model", str(model_folder), "--max-new-tokens", "6"]
    done = subprocess.run(
        [*command, "--input", "-", "--json"],
        input=requests.read_bytes().splitlines()[0],
        env=env,
        capture_output=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["id"] == "q0"
