"""Noise of training that belongs to a record, not to its place in a row.

The backbone draws its boundaries from torch's global generator, one number for each token of the row, so the same record
would get other numbers in another row. Here each record has a generator of its own: alone and packed it draws the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class RecordNoise(TorchFunctionMode):
    """While active, `rand_like` and `randn_like` of one number a token are drawn record by record.

    Args:
        seeds: of the records of the row.
        lengths: their tokens.
    """

    def __init__(self, seeds: Sequence[int], lengths: Sequence[int]) -> None:
        super().__init__()
        self._lengths = tuple(lengths)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        drawn = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}.get(func)
        if drawn is None or args[0].shape != (sum(self._lengths),):
            return func(*args, **(kwargs or {}))
        like: Tensor = args[0]
        parts = [
            drawn(length, generator=generator, dtype=torch.float64)
            for length, generator in zip(self._lengths, self._generators, strict=True)
        ]
        return torch.cat(parts).to(like.device, like.dtype)


def without_dropout(model: nn.Module) -> int:
    """Put dropout layers to rest, as their noise is of places in a row; returns how many were at work."""
    found = [module for module in model.modules() if "drop" in type(module).__name__.lower() and module.training]
    found = [module for module in found if not list(module.children()) and _share(module) > 0]
    for module in found:
        module.eval()
    return len(found)


def _share(module: nn.Module) -> float:
    return max(float(getattr(module, name, 0.0) or 0.0) for name in ("p", "drop_prob"))
