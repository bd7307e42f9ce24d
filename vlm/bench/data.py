"""`vlm bench data`: the data engine beside the loaders that there are, in one run, on one core.

Run as `python -m vlm.bench.data FOLDER PICTURES ROUNDS RECORDS`; prints JSON. A process of its own, so that it can be bound to one core and
nothing else is in it. Every round runs every pipeline once; times are the process's CPU time, which other programs cannot
take away. Rows with workers may use all cores, and count the workers' CPU time too.
"""

import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Int

from data.shards import open_shards
from vlm.bench.data_packing import Packing, lengths_of_notes, measure_packing
from vlm.bench.data_peers import installed_peers
from vlm.bench.data_pipelines import ROW_TOKENS, PackedRow, ours, webdataset
from vlm.bench.data_resume import Resumed, measure_resume

OURS, PILLOW, TORCHVISION = "ours", "webdataset, Pillow", "webdataset, torchvision"
STREAM = "webdataset, in order"
WORKERS = (1, 2)


@dataclass(frozen=True)
class Pass:
    """One pass of one pipeline."""

    records: int
    images: int
    tokens: int
    rows: int
    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Rate:
    """What a pipeline came to: medians of the rounds."""

    name: str
    records_per_s: float  # of CPU time, so of one core
    images_per_s: float
    tokens_per_s: float
    waste: float  # share of the rows' budget without a token
    wall_records_per_s: float
    spread: float  # (greatest - least) / median, of records_per_s
    over: dict[str, float]  # how many times the rate of a peer; medians of the rounds' ratios


@dataclass(frozen=True)
class DataResults:
    """Everything that `vlm bench data` measures."""

    pictures: int
    mean_bytes: float
    mean_pixels: float
    pipelines: list[Rate]
    reading: list[Rate]
    packing: list[Packing]
    resuming: list[Resumed]
    mean_length: float
    p95_length: float
    missing: list[str]  # peers, and why


def measure_data(folder: Path, pictures: int, rounds: int, records: int) -> DataResults:
    """Measure in a process of its own.

    Raises:
        RuntimeError: what that process said last.
    """
    command = [sys.executable, "-m", "vlm.bench.data", *map(str, (folder, pictures, rounds, records))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the measurement ended with code {done.returncode}; what it said stands above")
    found = json.loads(done.stdout.splitlines()[-1])
    for name, kind in (("pipelines", Rate), ("reading", Rate), ("packing", Packing), ("resuming", Resumed)):
        found[name] = [kind(**one) for one in found[name]]
    return DataResults(**found)


def pipelines_of(shards: Path) -> tuple[dict[str, Callable[[], Iterator[PackedRow]]], list[str]]:
    """All pipelines of one process, and why some peers are missing."""
    peers, missing = installed_peers()
    found: dict[str, Callable[[], Iterator[PackedRow]]] = {
        PILLOW: partial(webdataset, shards, "pil"),
        OURS: partial(ours, shards),
        TORCHVISION: partial(webdataset, shards, "torchvision"),
    }
    return found | {name: partial(maker, shards) for name, maker in peers.items()}, missing


def readers_of(shards: Path) -> dict[str, Callable[[], Iterator[PackedRow]]]:
    """Reading alone: each record's bytes, and nothing made of them."""
    from webdataset.compat import WebDataset

    opened = open_shards(shards)
    orders = {"in order": np.arange(len(opened)), "at random": np.random.default_rng(0).permutation(len(opened))}
    paths = sorted(str(path) for path in shards.glob("*.tar"))

    def stream() -> Iterator[PackedRow]:
        for sample in WebDataset(paths, shardshuffle=False):
            yield _read(sample["__key__"], sample["jpg"], sample["json"])

    def read(order: Int[np.ndarray, " records"]) -> Iterator[PackedRow]:
        for index in order.tolist():
            key, members = opened.read(index)
            yield _read(key, members["jpg"], members["json"])

    return {STREAM: stream} | {f"ours, {name}": partial(read, order) for name, order in orders.items()}


NOTHING = torch.zeros(0, dtype=torch.int64)


def _read(key: str, picture: bytes, words: bytes) -> PackedRow:
    assert picture
    assert words
    return PackedRow(NOTHING, (), (key,), (0,))


def take(pipeline: Callable[[], Iterator[PackedRow]]) -> Pass:
    """Run a pipeline to its end."""
    gc.collect()
    before, began = _cpu_s(), time.perf_counter()
    records = images = tokens = rows = 0
    for row in pipeline():
        records += len(row.sample_ids)
        images += len(row.images)
        tokens += len(row.ids)
        rows += 1
    return Pass(records, images, tokens, rows, _cpu_s() - before, time.perf_counter() - began)


def _cpu_s() -> float:
    """CPU time of this process and of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def take_in_turn(
    pipelines: Mapping[str, Callable[[], Iterator[PackedRow]]], rounds: int, tell: Callable[[], None]
) -> dict[str, list[Pass]]:
    """Each once unmeasured, so that files are in memory and libraries loaded; then `rounds` times in turn."""
    passes: dict[str, list[Pass]] = {name: [] for name in pipelines}
    for turn in range(rounds + 1):
        for name, pipeline in pipelines.items():
            found = take(pipeline)
            if turn:
                passes[name].append(found)
            tell()
    return passes


def rates(passes: Mapping[str, list[Pass]], peers: Sequence[str]) -> list[Rate]:
    """Medians, and how many times as fast as each peer every one is."""
    per_s = {name: [one.records / one.cpu_s for one in taken] for name, taken in passes.items()}

    def over(name: str, peer: str) -> float:
        return median(mine / theirs for mine, theirs in zip(per_s[name], per_s[peer], strict=True))

    return [
        Rate(
            name,
            median(per_s[name]),
            median(one.images / one.cpu_s for one in taken),
            median(one.tokens / one.cpu_s for one in taken),
            1 - sum(one.tokens for one in taken) / (sum(one.rows for one in taken) * ROW_TOKENS),
            median(one.records / one.wall_s for one in taken),
            (max(per_s[name]) - min(per_s[name])) / median(per_s[name]),
            {peer: over(name, peer) for peer in peers},
        )
        for name, taken in passes.items()
    ]


def measure(folder: Path, pictures: int, rounds: int, records: int) -> DataResults:
    """Everything, in this process, which is bound to one core meanwhile where the system can do that."""
    from vlm.bench.data_pictures import made_shards
    from vlm.training.progress import progress

    torch.set_num_threads(1)
    with progress("made pictures", pictures) as show:
        shards = made_shards(folder, pictures, show)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    pipelines, missing = pipelines_of(shards)
    readers = readers_of(shards)
    total = (rounds + 1) * (len(pipelines) + len(readers) + len(WORKERS))
    done = 0
    with progress("passes", total) as show:

        def tell() -> None:
            nonlocal done
            done += 1
            show(done, total)

        reading = take_in_turn(readers, rounds, tell)
        taken = take_in_turn(pipelines, rounds, tell)
        if cores:
            os.sched_setaffinity(0, cores)
        more = {f"ours, {number} worker{'s' * (number > 1)}": partial(ours, shards, number) for number in WORKERS}
        taken |= take_in_turn(more, rounds, tell)
    opened = open_shards(shards)
    sizes = [len(opened.read(index)[1]["jpg"]) for index in range(len(opened))]
    lengths = lengths_of_notes()
    return DataResults(
        pictures,
        float(np.mean(sizes)),
        mean_pixels(shards),
        rates(taken, (PILLOW, TORCHVISION)),
        rates(reading, (STREAM,)),
        measure_packing(rounds),
        measure_resume(folder, rounds, records),
        float(np.mean(lengths)),
        float(np.percentile(lengths, 95)),
        missing,
    )


def mean_pixels(shards: Path) -> float:
    """Of a stored picture, from the headers."""
    from data.image import check_header

    opened = open_shards(shards)
    sizes = [check_header(opened.read(index)[1]["jpg"]) for index in range(len(opened))]
    return float(np.mean([width * height for width, height in sizes]))


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Path(sys.argv[1]), *map(int, sys.argv[2:])))))
