"""How full the rows of training would be: lengths in a random order, packed window by window, as data/pack.py packs them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from data.pack import pack
from data.window import MAX_DRAWS, MAX_ROWS, MIN_ROWS

MOST_WINDOWS = 400  # that are packed: then the waste is known to a tenth of a percent


@dataclass(frozen=True)
class Packing:
    """Rows of an epoch over all records that fit into one."""

    row_tokens: int
    usable: int  # records
    too_long: int
    window: int  # records that are packed together
    waste: float  # share of the rows' tokens that nothing stands in
    rows_per_epoch: int


def window_draws(mean_tokens: float, row_tokens: int) -> int:
    """Records of a window, from their mean length, as `data.window.draws_of_window` has it of some of them."""
    draws_per_row = row_tokens / mean_tokens
    num_rows = min(MAX_ROWS, max(MIN_ROWS, MAX_DRAWS / draws_per_row))
    return round(num_rows * draws_per_row)


def measure_packing(lengths: Integer[np.ndarray, " records"], row_tokens: int, seed: int = 0) -> Packing | None:
    """Pack a random order of records; None where none fits into a row.

    Args:
        lengths: tokens of each record.
        seed: of the order.
    """
    fitting = lengths[lengths <= row_tokens]
    if not len(fitting):
        return None
    window = window_draws(float(fitting.mean()), row_tokens)
    turns = np.random.Generator(np.random.Philox(key=seed)).permutation(len(fitting))
    rows = tokens = 0
    for first in range(0, min(len(turns), window * MOST_WINDOWS), window):
        # A window that is not whole would look worse than training's, whose stream has no end.
        if first and first + window > len(turns):
            break
        drawn = fitting[turns[first : first + window]]
        rows += len(pack(drawn.tolist(), row_tokens))
        tokens += int(drawn.sum())
    waste = 1 - tokens / (rows * row_tokens)
    epoch = int(np.ceil(int(fitting.sum()) / ((1 - waste) * row_tokens)))
    return Packing(row_tokens, len(fitting), len(lengths) - len(fitting), window, waste, epoch)
