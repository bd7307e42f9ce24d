"""The runs of a comparison: each encoder trained with each seed by `vlm fit`, then scored.

In: contenders, a config, seeds, tasks. Out: the folders OUT/ENCODER/seed-S, each with the model, its answers and scores.json.
A run that is there already is not made again, so that a broken comparison goes on where it stopped.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.predictions import write_atomically
from eval.report import write_scores
from eval.run import evaluate
from eval.score import Result
from eval.task import Task
from vlm.commands.configs import find_config
from vlm.encoder_comparison.lineup import Contender
from vlm.inference.answer import ModelAnswerer
from vlm.inference.load import load_model

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One encoder with one seed, trained and scored."""

    label: str
    seed: int
    folder: Path
    answers: Path  # where the answers of the tasks are
    results: dict[str, Result]  # by task
    minutes: float  # of training, the start and the encoding of new pictures included
    cpu_minutes: float  # of its processes together: another program on the machine does not count
    peak_bytes: int  # of the greatest process of the training


def make_runs(
    found: Sequence[Contender],
    out: Path,
    config: str,
    seeds: Sequence[int],
    tasks: Sequence[Task],
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Make the runs that are missing, seed by seed, and score all.

    Args:
        limit: how many questions of each task there are, where not all are asked; they get a folder of their own.

    Raises:
        ValueError: a run failed, or one in the folder was made by other settings.
    """
    jobs = [(seed, one) for seed in seeds for one in found]
    # All before the first is made: what another comparison left is found before hours are spent.
    for seed, one in jobs:
        is_made(run_folder(out, one, seed), run_note(out, one, config, seed))
    runs = []
    for done, (seed, one) in enumerate(jobs):
        folder = run_folder(out, one, seed)
        make(folder, one, run_note(out, one, config, seed))
        took = json.loads(beside(folder, "took.json").read_text())
        answers = folder if limit is None else folder / f"limit-{limit}"
        results = score(folder / "model", answers, tasks)
        runs.append(
            Run(
                label=one.label,
                seed=seed,
                folder=folder,
                answers=answers,
                results=results,
                minutes=took["seconds"] / 60,
                cpu_minutes=took["cpu_s"] / 60,
                peak_bytes=took["peak_bytes"],
            )
        )
        if progress is not None:
            progress(done + 1, len(jobs))
    return runs


def run_folder(out: Path, one: Contender, seed: int) -> Path:
    """Of a run."""
    return out / one.folder / f"seed-{seed}"


def beside(folder: Path, ending: str) -> Path:
    """A file of the comparison's own, beside the run's folder, which it outlives."""
    return folder.with_name(f"{folder.name}.{ending}")


def run_note(out: Path, one: Contender, config: str, seed: int) -> dict[str, Any]:
    """All that makes a run, by which it is known again."""
    folder = run_folder(out, one, seed)
    here = ["--trainer.default_root_dir", str(folder)]
    seeds = ["--seed_everything", str(seed), "--data.seed", str(seed)]
    path = find_config(config)
    return {
        "command": ["fit", "--config", path, "--config", str(beside(folder, "yaml")), *here, *seeds],
        "config": Path(path).read_text(encoding="utf-8"),
        "overlay": one.overlay,
    }


def is_made(folder: Path, note: dict[str, Any]) -> bool:
    """Whether the run is there, whole.

    Raises:
        ValueError: it was made by other settings.
    """
    path = beside(folder, "json")
    if not path.is_file():
        return False
    made = json.loads(path.read_text())
    if made != json.loads(json.dumps(note)):
        other = ", ".join(part for part in note if made.get(part) != note[part])
        raise ValueError(f"{folder} was made by another {other} ({path}); take it away, or name another --out")
    return True


def make(folder: Path, one: Contender, note: dict[str, Any]) -> None:
    """Train one encoder with one seed, unless that was done before.

    Raises:
        ValueError: the training failed, or the folder is of other settings.
    """
    if is_made(folder, note):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside(folder, "yaml").write_text(yaml.safe_dump(one.overlay, sort_keys=False))
    log, took = beside(folder, "log"), beside(folder, "took.json")
    command = [sys.executable, "-m", "vlm.encoder_comparison.launch", str(took), sys.executable, "-m", "vlm.cli"]
    with log.open("w") as file:
        code = subprocess.run(
            [*command, *note["command"]], stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        last = " ".join(log.read_text().strip().splitlines()[-1:])
        raise ValueError(f"the training of {one.label} ended with exit code {code}: {last} (all of it: {log})")
    write_atomically(beside(folder, "json"), json.dumps(note) + "\n")


def score(model: Path, answers: Path, tasks: Sequence[Task]) -> dict[str, Result]:
    """Ask what has not been asked yet; the answers and scores.json stay."""
    answerer = ModelAnswerer(load_model(model))
    results = {task.name: evaluate(task, answerer, answers) for task in tasks}
    write_scores(answers / "scores.json", results)
    return results
