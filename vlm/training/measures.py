"""Sums over batches and the figures made of them: loss, compression, experts' load, waiting.

Compression is tokens per concept as evaluation would chunk them (probability >= 0.5, no noise), also while training: the probability is
computed before any noise, so the two agree.
"""

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data.batch import Batch
from vlm.training.parallel import all_sum

COUNTED = (
    *("cross_entropy", "answered", "tokens", "closes", "image_tokens", "image_closes"),
    *("documents", "steps", "ratio", "balance", "wait_s"),
)


class Sums:
    """Running sums of a window of batches."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor | float] = defaultdict(float)
        self.expert_loads: list[Tensor] = []  # of each layer with experts, shares added up over the steps
        self.started = time.perf_counter()

    def add(self, batch: Batch, outputs: dict[str, Any]) -> None:
        """Add one batch. No value is fetched from the device here."""
        closes = outputs["closes_at_evaluation"]
        counts: dict[str, Tensor | float] = {
            "cross_entropy": outputs["cross_entropy"],
            "answered": batch.num_answered,
            "tokens": len(batch.ids),
            "image_tokens": batch.num_image_slots,
            "documents": len(batch.lengths),
            "steps": 1,
            "wait_s": batch.wait_s,
            "balance": outputs["losses"]["balance"],
        }
        if closes is not None:
            counts |= {
                "closes": closes.sum(),
                "image_closes": (closes & batch.is_image).sum(),
                "ratio": outputs["losses"]["ratio"],
            }
        for name, value in counts.items():
            self.values[name] = self.values[name] + value
        loads = outputs["expert_load"]
        before = self.expert_loads or [torch.zeros_like(load) for load in loads]
        self.expert_loads = [old + load for old, load in zip(before, loads, strict=True)]

    def reduce(self, device: torch.device) -> dict[str, float]:
        """The sums over ranks, on the CPU."""
        row = torch.stack([torch.as_tensor(self.values[name], dtype=torch.float64).to(device) for name in COUNTED])
        return dict(zip(COUNTED, all_sum(row).tolist(), strict=True))


def _per(tokens: float, concepts: float) -> float:
    return tokens / concepts if concepts else math.nan


def measures(total: dict[str, float]) -> dict[str, float]:
    """Figures from sums. A figure without a basis (no picture, no chunking) is left out."""
    text, text_closes = total["tokens"] - total["image_tokens"], total["closes"] - total["image_closes"]
    figures = {
        "loss": _per(total["cross_entropy"], total["answered"]),
        "compression": _per(total["tokens"], total["closes"]),
        "compression_text": _per(text, text_closes),
        "compression_image": _per(total["image_tokens"], total["image_closes"]),
    }
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def mix(sources: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """The sums that a mixture would have: (weight, sums) of each source, weights being shares of its records.

    Validation sets have sizes of their own; weighed so, their figures are those of what training draws.
    """
    total = dict.fromkeys(COUNTED, 0.0)
    for weight, sums in sources:
        for name in COUNTED:
            total[name] += weight * sums[name] / max(1.0, sums["documents"])
    return total
