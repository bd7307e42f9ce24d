"""Going on in the middle of a data set, for `vlm bench data`: how long until the first batch, and how large a place is.

By the clock: workers are processes of their own, which start meanwhile.
"""

import json
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from data.image import ImageLayout
from data.module import DataModule
from data.shards import write_manifest, write_shard
from vlm.bench.data_pictures import picture, words_of
from vlm.bench.data_pipelines import GRID, ROW_TOKENS, SPEC

PER_SHARD = 2_500
DRAWN = 20  # different pictures: what is read and decoded before the first batch is one row's
ROWS_BEFORE = 60  # handed out before the place is saved
WORKERS = (0, 1, 2)


@dataclass(frozen=True)
class Resumed:
    """Medians of the rounds."""

    records: int
    workers: int
    open_s: float  # shards opened and checked, the place taken up
    first_batch_s: float  # from nothing to the first batch, opening included
    state_bytes: int


def measure_resume(folder: Path, rounds: int, records: int) -> list[Resumed]:
    """Save a place, then go on from it with a new data module each time. 25,000 records take 1.7 GB of the folder meanwhile."""
    with TemporaryDirectory(dir=folder, prefix=".records-") as place:
        write_records(Path(place), records)
        return _measure(Path(place), rounds, records)


def _measure(shards: Path, rounds: int, records: int) -> list[Resumed]:
    started = module(shards, 0)
    loader = started.train_dataloader()
    batches = iter(loader)
    for _ in range(ROWS_BEFORE):
        next(batches)
    place = started.state_dict()
    started.teardown()
    found = []
    for workers in WORKERS:
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            again = module(shards, workers)
            again.load_state_dict(place)
            batches = iter(again.train_dataloader())
            opened = time.perf_counter()
            next(batches)
            times.append((opened - began, time.perf_counter() - began))
            again.teardown()
        opens, firsts = zip(*times, strict=True)
        found.append(Resumed(records, workers, median(opens), median(firsts), len(pickle.dumps(place))))
    return found


def module(shards: Path, workers: int) -> DataModule:
    """As a training run makes it."""
    return DataModule(
        "demo", ImageLayout(SPEC, GRID), [str(shards)], row_tokens=ROW_TOKENS, num_workers=workers, lanes=24
    )


def write_records(folder: Path, records: int) -> None:
    """So many captions and conversations, each with one of a few pictures."""
    pictures = [picture(number) for number in range(DRAWN)]
    for start in range(0, records, PER_SHARD):
        write_shard(
            folder / f"{start // PER_SHARD:04}.tar",
            (
                (f"{one:06}", {"json": json.dumps(words_of(one)).encode(), "jpg": pictures[one % DRAWN]})
                for one in range(start, min(start + PER_SHARD, records))
            ),
        )
    write_manifest(folder)
