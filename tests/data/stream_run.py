"""Processes that take batches from a DataModule, each rank in one, stopped and begun again; forked, so torch is imported once.

`relays`: one layout after another takes up the place of the one before. `killed`: one process is killed at random moments.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from data.batch import Batch
from data.image import ImageLayout, ImageSpec
from data.module import DataModule, SourceConfig

FORK = multiprocessing.get_context("fork")
SPEC = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def data_module(settings: dict[str, Any], **changes: Any) -> DataModule:
    train = [SourceConfig(**source) for source in settings["train"]]
    return DataModule(**{**settings, "layout": ImageLayout(SPEC, (2, 3)), "train": train, **changes})


def content(batch: Batch) -> list[str]:
    """The names of a batch's documents, and a digest of all its tokens and pixels."""
    digest = hashlib.sha256(batch.ids.numpy().tobytes())
    for image in batch.images:
        digest.update(b"" if image is None else image.numpy().tobytes())
    return [*batch.sample_ids, digest.hexdigest()]


def write(file: Path, value: Any) -> None:
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value))
    os.replace(part, file)


def one_rank(folder: Path, settings: dict[str, Any], phase: int, layout: dict[str, int], rank: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store-{phase}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=layout["world"])
    module = data_module(settings, num_workers=layout["workers"])
    loader = module.train_dataloader()
    if phase:
        loader.load_state_dict(json.loads((folder / f"state-{phase - 1}.json").read_text()))
    batches = (batch for _ in range(10**6) for batch in loader)
    rows = [content(next(batches)) for _ in range(layout["steps"] * layout["accumulate"])]
    state = loader.state_dict()
    write(folder / f"rows-{phase}-{rank}.json", rows)
    if rank == 0:
        write(folder / f"state-{phase}.json", state)
    distributed.barrier()
    module.teardown()
    distributed.destroy_process_group()


def relays(folder: Path, settings: dict[str, Any], chains: list[list[dict[str, int]]]) -> list[list[list[str]]]:
    """The rows of each chain of layouts."""
    folders = [folder / str(number) for number in range(len(chains))]
    for one in folders:
        one.mkdir()
    return [relay(one, settings, layouts) for one, layouts in zip(folders, chains, strict=True)]


def relay(folder: Path, settings: dict[str, Any], layouts: list[dict[str, int]]) -> list[list[str]]:
    rows: list[list[str]] = []
    for phase, layout in enumerate(layouts):
        ranks = range(layout["world"])
        processes = [FORK.Process(target=one_rank, args=(folder, settings, phase, layout, rank)) for rank in ranks]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0, process
        of_ranks = [json.loads((folder / f"rows-{phase}-{rank}.json").read_text()) for rank in ranks]
        rows += [row for step in zip(*of_ranks, strict=True) for row in step]
    return rows


def train(file: Path, settings: dict[str, Any], number: int, num_workers: int) -> None:
    """Take batches up to a number, and keep the place and what was seen after each, as a checkpoint does."""
    torch.set_num_threads(1)
    module = data_module(settings, num_workers=num_workers)
    loader = module.train_dataloader()
    kept = json.loads(file.read_text()) if file.exists() else {"rows": [], "state": loader.state_dict()}
    loader.load_state_dict(kept["state"])
    while len(kept["rows"]) < number:
        for batch in loader:
            kept["rows"].append(content(batch))
            time.sleep(0.005)  # the step
            write(file, {"rows": kept["rows"], "state": loader.state_dict()})
            if len(kept["rows"]) == number:
                break
    module.teardown()


def killed(folder: Path, settings: dict[str, Any], kills: int, number: int) -> dict[str, Any]:
    file, chance, at = folder / "run.json", random.Random(0), []
    for _ in range(kills):
        process = FORK.Process(target=train, args=(file, settings, 10**6, 2))
        before = len(json.loads(file.read_text())["rows"]) if file.exists() else 0
        process.start()
        # At random from the start on, but half of the times not before something new was seen.
        if chance.random() < 0.5:
            while len(json.loads(file.read_text())["rows"]) == before if file.exists() else True:
                time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        at.append(len(json.loads(file.read_text())["rows"]) if file.exists() else 0)
    number = max([number, *at])
    for one, num_workers in ((file, 2), (folder / "whole.json", 0)):
        last = FORK.Process(target=train, args=(one, settings, number, num_workers))
        last.start()
        last.join()
        assert last.exitcode == 0
    rows, whole = (json.loads((folder / name).read_text())["rows"] for name in ("run.json", "whole.json"))
    return {"rows": rows, "whole": whole, "killed_at": at}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    target = Path(asked.pop("folder"))
    run = {"relays": relays, "killed": killed}[asked.pop("kind")]
    write(target / "result.json", run(target, **asked))
