"""A stream that is stopped, killed and shared anew is the stream of one process that ran through."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
STEP = 24  # rows


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace, tokenizer_file: Path) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("shards")
    pictures = [make.picture_record(i, make.picture(i, (200 + i, 150), "JPEG")) for i in range(60)]
    pictures[7] = (pictures[7][0], {**pictures[7][1], "0.png": make.picture(7)[:-40]})
    pictures = [
        (key, {name.replace("png", "jpg"): data for name, data in members.items()}) for key, members in pictures
    ]
    for _, members in pictures:
        members["json"] = members["json"].replace(b"png", b"jpg")
    # A shard for each lane: read shard by shard.
    texts = [make.text_record(i, 1 + i * 7 % 13) for i in range(24 * 70)]
    return {
        "tokenizer": str(tokenizer_file),
        "train": [
            {"path": make.write_records(root / "texts", texts, per_shard=70), "weight": 0.7, "name": "texts"},
            {"path": make.write_records(root / "pictures", pictures, per_shard=25), "weight": 0.3, "name": "pictures"},
        ],
        "row_tokens": 64,
        "augmentations": 1,
        "steps_per_epoch": 8,
        "max_faulty": 0.5,
    }


def run(folder: Path, kind: str, **asked: Any) -> Any:
    command = [sys.executable, "-m", "tests.data.stream_run", json.dumps(asked | {"folder": str(folder), "kind": kind})]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


def layout(world: int, workers: int, steps: int = 2) -> dict[str, int]:
    return {"world": world, "workers": workers, "accumulate": STEP // world, "steps": steps}


@pytest.mark.timeout(900)
def test_seven_changes_of_the_layout_give_the_stream_of_one_process(tmp_path: Path, settings: dict[str, Any]) -> None:
    # (processes, workers of each); a step is always 24 rows, so accumulation changes with the processes.
    layouts = [(1, 0), (2, 2), (3, 1), (4, 0), (1, 3), (6, 2), (2, 1), (8, 1)]
    # Places in the middle of a round of lanes, and of a step of other layouts.
    odd = [
        {"world": world, "workers": 1, "accumulate": 1, "steps": steps} for world, steps in ((3, 1), (2, 4), (1, 13))
    ]
    chains = [[layout(1, 0, 2 * len(layouts))], [layout(*one) for one in layouts], odd]
    whole, steps, parts = run(tmp_path, "relays", settings=settings, chains=chains)
    assert len(whole) == 2 * STEP * len(layouts)
    assert steps == whole
    assert parts == whole[: len(parts)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_and_repeat_nothing(tmp_path: Path, settings: dict[str, Any], kills: int) -> None:
    result = run(tmp_path, "killed", settings=settings, kills=kills, number=60)
    at = result["killed_at"]
    assert len(at) == kills
    assert any(here > before for before, here in itertools.pairwise([0, *at]))
    assert result["rows"] == result["whole"]
