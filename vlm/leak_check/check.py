"""Whether the records of a packed row see each other, through the whole model, in evaluation and in training mode.

In: a model and records. Out: findings, one for each probe and mode. A row of several records must give each what it has
alone, in values and gradients; change one, and nothing changes in the others; the gradient of one's loss with respect to
another's tokens and pixels is exactly 0. In float64, so that rounding is far below any leak; noise of training is each
record's own (noise.py). Losses that are meant to be of all tokens of a row (balance, z, ratio) are left out: they couple
what the weights learn, and no value of a record.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from vlm.leak_check.ledger import Finding, Ledger
from vlm.leak_check.noise import without_dropout
from vlm.leak_check.probes import Prober
from vlm.leak_check.records import KINDS, Record
from vlm.model import VisionLanguageModel
from vlm.training.parts import rest_frozen

# Relative differences that rounding explains. In float32 a boundary or an expert can be decided by rounding, which would
# look like a leak: float64 is the one to trust.
ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-3}
FEWEST, MOST = 2, 6  # records of a row


def check_leaks(
    model: VisionLanguageModel,
    records: Sequence[Record],
    *,
    num_rows: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Pack the records in several ways and try every probe, first in evaluation mode, then in training mode.

    Args:
        model: in float64, or in float32 where that is too large; as it was afterwards. What is wholly frozen stays in
            evaluation mode, as in training.
        num_rows: packings in each mode.
        progress: told how many of how many rows are done.

    Raises:
        ValueError: no records, a number that makes no sense, or a dtype without a tolerance.
    """
    dtype = model.embed.weight.dtype
    if dtype not in ALLOWED:
        raise ValueError(f"leaks are looked for in float64 or float32, got a model in {dtype}; convert it first")
    if num_rows < 1:
        raise ValueError(f"the number of rows must be at least 1, got {num_rows}")
    if not records:
        raise ValueError("there are no records to pack; give some of each kind")
    ledger = Ledger(ALLOWED[dtype])
    modes = {module: module.training for module in model.modules()}
    learns = {parameter: parameter.requires_grad for parameter in model.parameters()}
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    done = 0
    model.requires_grad_(False)  # gradients are asked for with respect to inputs alone
    try:
        for mode in ("evaluation", "training"):
            model.train(mode == "training")
            if mode == "training":
                for parameter, was in learns.items():
                    parameter.requires_grad_(was)
                rest_frozen(model)
                model.requires_grad_(False)
                without_dropout(model)
            chance = np.random.default_rng([seed, mode == "training"])
            prober = Prober(model, mode, ledger, chance)
            for row in packings(records, num_rows, seed):
                prober.probe(row)
                done += 1
                if progress is not None:
                    progress(done, 2 * num_rows)
    finally:
        for module, was in modes.items():
            module.training = was
        for parameter, was in learns.items():
            parameter.requires_grad_(was)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(state[name])
    return ledger.findings()


def packings(records: Sequence[Record], num_rows: int, seed: int) -> list[list[Record]]:
    """Rows of records: random mixes with one of each kind at least, each in two orders, and every fourth of many short ones."""
    chance = np.random.default_rng([seed, 7])
    by_kind = [[record for record in records if record.kind == kind] for kind in KINDS]
    # Few pictures in many records: encoding them costs more than all else.
    shortest = sorted(records, key=lambda record: (len(record.row.pictures), len(record.row)))[
        : max(2, len(records) // 3)
    ]
    rows: list[list[Record]] = []
    while len(rows) < num_rows:
        if len(rows) % 4 == 3:
            rows.append([shortest[int(place)] for place in chance.integers(0, len(shortest), 3 * MOST)])
            continue
        if len(rows) % 4 == 1:
            rows.append([rows[-1][int(place)] for place in chance.permutation(len(rows[-1]))])
            continue
        row = [kind[int(chance.integers(len(kind)))] for kind in by_kind if kind]
        number = int(chance.integers(FEWEST, MOST + 1))
        row += [records[int(chance.integers(len(records)))] for _ in range(number - len(row))]
        rows.append([row[int(place)] for place in chance.permutation(len(row))])
    return rows


def open_closed_paths(model: nn.Module, seed: int = 0) -> int:
    """Give weights that begin at 0, as random models have them, small random values; returns how many tensors.

    What is multiplied by 0 would hide a leak.
    """
    chance = torch.Generator().manual_seed(seed)
    closed = [p for p in model.parameters() if not bool(p.detach().any())]
    with torch.no_grad():
        for parameter in closed:
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * 0.1)
    return len(closed)
