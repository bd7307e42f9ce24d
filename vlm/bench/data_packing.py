"""Packing alone, for `vlm bench data`: what it leaves empty, and how fast it is."""

import gc
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from data.pack import pack
from vlm.bench.data_pipelines import ROW_TOKENS

# Lengths of the notes' mixture: log-normal with mean 615 and 95th percentile 1,771.
LOG_MEAN, LOG_STD, ITEMS = 6.0375, 0.8765, 20_000
WINDOW = 533  # draws of a window of 80 rows of such records, as data/window.py has it


@dataclass(frozen=True)
class Packing:
    """A way of packing and what it leaves empty."""

    name: str
    waste: float
    items_per_s: float


def lengths_of_notes(seed: int = 0) -> list[int]:
    """Lengths of records of a mixture of captions, pages and conversations; those above a row are left out."""
    drawn = np.random.default_rng(seed).lognormal(LOG_MEAN, LOG_STD, 2 * ITEMS).round()
    return [int(length) for length in drawn if 1 <= length <= ROW_TOKENS][:ITEMS]


def pack_windows(lengths: list[int], window: int = WINDOW) -> list[list[list[int]]]:
    """The rows of each window."""
    return [pack(lengths[start : start + window], ROW_TOKENS) for start in range(0, len(lengths), window)]


def fill_in_order(lengths: list[int]) -> int:
    """Rows that it takes where each is filled as records come by."""
    rows, used = 1, 0
    for length in lengths:
        if used + length > ROW_TOKENS:
            rows, used = rows + 1, 0
        used += length
    return rows


def measure_packing(rounds: int) -> list[Packing]:
    """Waste and speed of packing alone, by CPU time."""
    lengths = lengths_of_notes()
    found = []
    for name, count in (
        (f"ours, windows of {WINDOW} records", lambda: sum(len(rows) for rows in pack_windows(lengths))),
        ("rows filled in order", lambda: fill_in_order(lengths)),
    ):
        seconds, rows = [], 0
        for _ in range(max(3, rounds)):
            gc.collect()
            began = time.process_time()
            rows = count()
            seconds.append(time.process_time() - began)
        found.append(Packing(name, 1 - sum(lengths) / (rows * ROW_TOKENS), len(lengths) / median(seconds)))
    return found
