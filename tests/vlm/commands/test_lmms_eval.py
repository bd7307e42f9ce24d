"""lmms-eval itself, offline, in an environment of its own: its scores of our tasks are those of `vlm eval`, to the last digit."""

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from data.sample import Part, Question
from data.shards import write_shard

ROOT = Path(__file__).resolve().parents[3]
COLOURS = ("red", "green", "blue", "black")
Vlm = Callable[..., tuple[int, str, str]]

ROUNDS = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["picture"])]

def doc_to_text(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None, previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    if round_idx == 2:
        return None, None, True, previous_output, "ended"
    return doc_to_visual(doc), f"Is it {previous_output[-1]}?", False, previous_output, "second"

def process_results(doc, results):
    said = results[0]
    return {"score": {"id": doc["id"], "rounds": said, "score": float(len(said))}}

def mean(items):
    return sum(one["score"] for one in items) / len(items)
"""
ROUNDS_YAML = """
task: rounds
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: generate_until_multi_round
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: question
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 4
  until: []
metric_list:
  - metric: score
    aggregation: !function utils.mean
    higher_is_better: true
"""


def run(*command: str | Path, **variables: str) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VLM_TRACEBACK")}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | variables
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what constraints-lmms-eval.txt lists, and our wheel."""
    place = tmp_path_factory.mktemp("lmms-eval")
    uv, python = Path(sys.executable).with_name("uv"), place / "venv" / "bin" / "python"
    run(uv, "venv", "-q", "-p", sys.executable, place / "venv")
    hashed = ROOT / "constraints-lmms-eval.txt"
    run(uv, "pip", "sync", "-q", "--python", python, "--require-hashes", hashed)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, ROOT)
    run(uv, "pip", "install", "-q", "--offline", "--no-deps", "--python", python, next(place.glob("*.whl")))
    return python


def picture(number: int, kind: str = "PNG") -> bytes:
    """A square of one colour, lighter or darker, on a plain ground; as JPEG it lies on its side."""
    draw = random.Random(number)
    image = Image.new("RGB", (40, 24), (draw.randrange(256), draw.randrange(256), draw.randrange(256)))
    image.paste(COLOURS[number % 4], (4, 2, 36, 22))
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    image.save(file, kind, exif=exif)
    return file.getvalue()


def record(number: int) -> tuple[str, dict[str, bytes]]:
    """Which colour? Every third question has two pictures, parted by words."""
    kind = "jpg" if number % 2 else "png"
    content: list[dict[str, str]] = [{"type": "image", "image": f"0.{kind}"}]
    if number % 3 == 0:
        content = [
            {"type": "text", "text": "Not "},
            {"type": "image", "image": "1.png"},
            {"type": "text", "text": " but "},
        ]
        content += [{"type": "image", "image": f"0.{kind}"}]
    content.append({"type": "text", "text": "What colour is this?"})
    told = {"id": f"q{number}", "content": content, "choices": [*COLOURS], "answer": number % 4}
    members = {"json": json.dumps(told).encode(), f"0.{kind}": picture(number, "JPEG" if number % 2 else "PNG")}
    return f"{number:04}", members | ({"1.png": picture(number + 1)} if number % 3 == 0 else {})


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    path = tmp_path / "colours.tar"
    write_shard(path, [record(number) for number in range(30)])
    return path


@pytest.fixture
def model(config: Path, vlm: Vlm, tmp_path: Path) -> Path:
    """Trained for a little while: some of its answers are right."""
    settings = yaml.safe_load(config.read_text())
    settings["trainer"] |= {"max_steps": 60, "val_check_interval": 60}
    config.write_text(yaml.safe_dump(settings))
    assert vlm("fit", "--config", str(config))[0] == 0
    return tmp_path / "run" / "model"


def found(out: Path) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    """The score of each task, and its logged samples."""
    (path,) = out.rglob("*_results.json")
    scores = {name: told["score,none"] for name, told in json.loads(path.read_text())["results"].items()}
    samples = {
        path.stem.partition("_samples_")[2]: [json.loads(line) for line in path.read_text().splitlines()]
        for path in out.rglob("*_samples_*.jsonl")
    }
    return scores, samples


def test_lmms_eval_gives_our_scores(model: Path, colours: Path, python: Path, vlm: Vlm, tmp_path: Path) -> None:
    ours, tasks, out = tmp_path / "ours", tmp_path / "tasks", tmp_path / "out"
    expected: dict[str, tuple[str, float]] = {}
    for name, *chosen in (
        ("demo/presence", "demo/presence", "--limit", "24"),
        ("demo/caption", "demo/caption", "--limit", "24"),
        ("shards/colours", "--shards", str(colours), "--mode", "choose"),
    ):
        assert vlm("eval", "export", *chosen, "--to", "lmms-eval", "--out", str(tasks))[0] == 0
        what = chosen if chosen[0].startswith("--") else ["--tasks", *chosen]
        code, said, _ = vlm("eval", "--model", str(model), *what, "--out", str(ours), "--json", "--device", "cpu")
        assert code == 0
        expected[f"conceptvlm_{name}".replace("/", "_")] = name, json.loads(said)[name]["score"]
    run(
        *(python, "-m", "lmms_eval", "--model", "conceptvlm", "--model_args", f"pretrained={model}", "--device", "cpu"),
        *(
            "--force_simple",
            "--include_path",
            tasks,
            "--tasks",
            ",".join(expected),
            "--output_path",
            out,
            "--log_samples",
        ),
        HF_HOME=str(tmp_path / "hf"),
    )
    scores, samples = found(out)
    assert scores == {harness: score for harness, (_, score) in expected.items()}
    assert 0 < scores["conceptvlm_shards_colours"] < 1
    for harness, (name, _) in expected.items():
        lines = (ours / name / "predictions.jsonl").read_text().splitlines()
        kept = {one["id"]: one["output"] for one in map(json.loads, lines) if not one["blind"]}
        told = {one["score"]["id"]: one["score"]["output"] for one in samples[harness]}
        # Texts are the same; log-probabilities differ in the seventh digit with the number of threads.
        assert told == {key: one if isinstance(one, str) else pytest.approx(one, abs=1e-4) for key, one in kept.items()}
    assert list((tmp_path / "run" / "lmms-eval").rglob("answers-*.jsonl"))


def test_its_chat_form_over_two_processes_gives_our_score_and_all_rounds(
    model: Path, colours: Path, python: Path, vlm: Vlm, tmp_path: Path
) -> None:
    tasks, out = tmp_path / "tasks", tmp_path / "out"
    chosen = ("--shards", str(colours), "--mode", "generate")
    assert vlm("eval", "export", *chosen, "--to", "lmms-eval", "--out", str(tasks))[0] == 0
    code, said, _ = vlm(
        "eval", "--model", str(model), *chosen, "--out", str(tmp_path / "ours"), "--json", "--device", "cpu"
    )
    assert code == 0
    rounds = tasks / "rounds"
    rounds.mkdir()
    questions = [{"id": f"r{n}", "question": f"What is {n}?", "picture": str(rounds / f"{n}.png")} for n in range(5)]
    for number, one in enumerate(questions):
        Path(one["picture"]).write_bytes(picture(number))
    (rounds / "questions.json").write_text("".join(json.dumps(one) + "\n" for one in questions))
    (rounds / "utils.py").write_text(ROUNDS)
    (rounds / "rounds.yaml").write_text(ROUNDS_YAML.format(path=rounds / "questions.json"))
    run(
        *(python, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29577"),
        *("-m", "lmms_eval", "--model", "conceptvlm", "--model_args", f"pretrained={model}", "--device", "cpu"),
        *(
            "--include_path",
            tasks,
            "--tasks",
            "conceptvlm_shards_colours,rounds",
            "--output_path",
            out,
            "--log_samples",
        ),
        HF_HOME=str(tmp_path / "hf"),
    )
    scores, samples = found(out)
    assert scores == {"conceptvlm_shards_colours": json.loads(said)["shards/colours"]["score"], "rounds": 2.0}
    assert 0 < scores["conceptvlm_shards_colours"] < 1

    from vlm.inference.answer import ModelAnswerer
    from vlm.inference.load import load_model

    answerer = ModelAnswerer(load_model(model, "cpu"))
    told = {one["score"]["id"]: one["score"]["rounds"] for one in samples["rounds"]}
    for number, one in enumerate(questions):
        first = answerer.generate([ask(one["question"], number)], 4)[0].text
        assert told[one["id"]] == [first, answerer.generate([ask(f"Is it {first}?", number)], 4)[0].text]


def ask(text: str, number: int) -> Question:
    return Question("q", "q", (Part(image="0.png"), Part(text=text)), {"0.png": picture(number)})


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
