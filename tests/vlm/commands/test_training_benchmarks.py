"""Benchmarks while a model trains, through the command line."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.shards import write_manifest, write_shard

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
COLOURS = ("red", "green", "blue", "black")
ROOT = Path(__file__).resolve().parents[3]


def logged(run: Path, column: str) -> dict[int, float]:
    """A column of the log by step."""
    (file,) = run.glob("logs/*/metrics.csv")
    lines = csv.DictReader(file.read_text().splitlines())
    return {int(line["step"]): float(line[column]) for line in lines if line.get(column)}


def fit(processes: int, *arguments: str, cwd: Path) -> None:
    """In processes of their own."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "vlm.cli", "fit", "--trainer.devices", str(processes), *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Twelve questions about a plain colour, with choices."""
    records = []
    for number in range(12):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), COLOURS[number % 4]).save(file, "PNG")
        content = [{"type": "image", "image": "0.png"}, {"type": "text", "text": "What colour is this?"}]
        question = {"id": str(number), "content": content, "choices": list(COLOURS), "answer": number % 4}
        records.append((f"{number:04}", {"json": json.dumps(question).encode(), "0.png": file.getvalue()}))
    folder = tmp_path / "questions"
    folder.mkdir()
    write_shard(folder / "a.tar", records)
    write_manifest(folder)
    return folder


@pytest.fixture
def asking(config: Path, questions: Path) -> list[str]:
    """Arguments of a run that asks eight of them every fourth step, four blind."""
    overlay = config.with_name("asking.yaml")
    overlay.write_text(
        f"benchmarks: {{tasks: [{{shards: {questions}, mode: choose}}], every_steps: 4, limit: 8, blind: 4}}\n"
    )
    return ["--config", str(config), "--config", str(overlay)]


def test_scores_are_logged_beside_the_loss_and_are_those_of_vlm_eval(
    vlm: Vlm, asking: list[str], questions: Path, tmp_path: Path
) -> None:
    code, out, err = vlm("fit", *asking)
    assert code == 0, err
    assert "benchmarks at step 4\n    shards/questions: " in out
    run = tmp_path / "run"
    scores = logged(run, "benchmark/shards/questions")
    assert sorted(scores) == [4, 6], "every fourth step, and after the last"
    assert sorted(logged(run, "benchmark/shards/questions/blind")) == [4, 6]
    code, _, err = vlm(
        "eval",
        *("--model", str(run / "model"), "--shards", str(questions), "--mode", "choose"),
        *("--limit", "8", "--blind", "4", "--out", str(tmp_path / "after")),
    )
    assert code == 0, err
    kept = [
        json.loads((folder / "scores.json").read_text()) for folder in (run / "benchmarks/step-6", tmp_path / "after")
    ]
    assert kept[0] == kept[1]
    assert kept[0]["shards/questions"]["n"] == 8
    assert scores[6] == pytest.approx(kept[0]["shards/questions"]["score"])


def test_training_goes_on_as_if_nothing_had_been_asked(vlm: Vlm, asking: list[str], tmp_path: Path) -> None:
    assert vlm("fit", *asking)[0] == 0
    asked = logged(tmp_path / "run", "train/loss")
    assert vlm("fit", *asking[:2], "--trainer.default_root_dir", str(tmp_path / "plain"))[0] == 0
    assert asked == logged(tmp_path / "plain", "train/loss")
    assert not (tmp_path / "plain" / "benchmarks").exists()


@pytest.mark.slow
def test_two_processes_share_the_questions_and_get_the_same_scores(vlm: Vlm, asking: list[str], tmp_path: Path) -> None:
    # One step of nothing: the weights are the same whatever the number of processes.
    still = [*asking, "--optimizer.lr", "1e-30", "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"]
    found = []
    for processes in (1, 2):
        run = tmp_path / str(processes)
        arguments = [*still, "--trainer.default_root_dir", str(run)]
        if processes == 1:
            assert vlm("fit", *arguments)[0] == 0
        else:
            fit(processes, *arguments, cwd=tmp_path)
        folder = run / "benchmarks" / "step-1"
        found.append(json.loads((folder / "scores.json").read_text()))
        assert not list(folder.rglob("predictions.rank-*")), "merged"
    assert found[0] == found[1]
    assert sorted(logged(tmp_path / "2", "benchmark/shards/questions")) == [1]


def test_tasks_by_name_and_of_written_answers(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    few = ["--benchmarks.tasks", "[demo/presence, demo/caption]", "--benchmarks.limit", "2"]
    code, out, err = vlm("fit", "--config", str(config), "--trainer.max_steps", "1", *few)
    assert code == 0, err
    assert "demo/caption: " in out
    assert logged(tmp_path / "run", "benchmark/demo/presence").keys() == {1}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--benchmarks.tasks", "[demo/presense]"], "did you mean demo/presence"),
        (
            ["--benchmarks.tasks", "[demo/presence]", "--benchmarks.limit", "0"],
            "benchmarks.limit must be at least 1, got 0",
        ),
        (["--benchmarks.tasks", "demo/presense"], "did you mean demo/presence"),
        (["--benchmarks.tasks", "[{shards: x, mode: wrong}]"], "mode choose or generate"),
        (["--benchmarks.tasks", "[{shards: nowhere.tar}]"], "benchmarks.tasks, nowhere.tar: "),
        (["--benchmarks.every_steps", "0"], "benchmarks.every_steps must be at least 1"),
        (["--benchmarks.tasks", "[mmstar]"], "vlm eval prepare mmstar"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_first_step(
    vlm: Vlm, config: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    code, out, err = vlm("fit", "--config", str(config), *arguments)
    assert code == 2
    assert told in err
    assert "step     1" not in out
    assert not list((tmp_path / "run").rglob("*.csv"))


def test_a_question_that_cannot_be_scored_is_refused_before_the_first_step(
    vlm: Vlm, asking: list[str], questions: Path, tmp_path: Path
) -> None:
    question = {"id": "x", "content": [{"type": "text", "text": "Which?"}], "choices": ["a", "b"], "answer": 5}
    write_shard(questions / "b.tar", [("0000", {"json": json.dumps(question).encode()})])
    write_manifest(questions)
    code, _, err = vlm("fit", *asking)
    assert code == 2
    assert "answer must be a whole number below that, got 5; mend the records" in err
    assert not list((tmp_path / "run").rglob("*.csv"))
