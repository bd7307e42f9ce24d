"""What each encoder costs: parameters, FLOPs and time for a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlm.backbone.cost import flop_counter
from vlm.bench.timing import interleave
from vlm.encoder_comparison.lineup import Contender
from vlm.model import VisionLanguageModel
from vlm.training.parts import choose_learning

PICTURES, ROUNDS = 8, 7  # of one timed call; the median of so many counts


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one encoder."""

    vectors: int  # of a picture, behind the connector
    size_px: int
    learned: int  # parameters of the encoder
    frozen: int
    flops: float  # forward, for a picture; a multiply-add is 2
    pictures_per_s: float  # forward, on one thread of this machine's CPU

    @property
    def learns(self) -> str:
        """Which parameters of the encoder training moved."""
        if not self.learned:
            return "frozen"
        return "in part" if self.frozen else "trained"


def measure_costs(found: Mapping[Path, Contender]) -> dict[str, Cost]:
    """Costs by label; times are of process seconds, in rounds that all encoders share.

    Args:
        found: by the model folder of one of its runs.
    """
    models = {one.label: VisionLanguageModel.from_pretrained(folder) for folder, one in found.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            runs = {label: encoding(model.encoder) for label, model in models.items()}
            timings = interleave(runs, rounds=ROUNDS)
    finally:
        torch.set_num_threads(threads)
    costs = {}
    for one in found.values():
        model = models[one.label]
        choose_learning(model, one.learning["train_only"], one.learning["freeze"])
        assert model.encoder is not None
        learned = sum(weight.numel() for weight in model.encoder.parameters() if weight.requires_grad)
        costs[one.label] = Cost(
            vectors=one.vectors,
            size_px=model.encoder.spec.size_px,
            learned=learned,
            frozen=sum(weight.numel() for weight in model.encoder.parameters()) - learned,
            flops=count_flops(model.encoder),
            pictures_per_s=PICTURES / timings[one.label].median,
        )
    return costs


def count_flops(encoder: Any) -> float:
    """Of the forward pass of one picture; attention in its plain form, as fused kernels hide what they do."""
    size = encoder.spec.size_px
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), flop_counter() as counter:
        encoder.encode([torch.zeros(3, size, size)])
    return float(counter.get_total_flops())


def encoding(encoder: Any) -> Any:
    """One call of the encoder as answering makes it, on random pictures."""
    fast = encoder.folded() if hasattr(encoder, "folded") else encoder
    size = encoder.spec.size_px
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randn(3, size, size, generator=generator) for _ in range(PICTURES)]
    return lambda: fast.encode(pictures)
