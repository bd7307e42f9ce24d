"""AdamW and its schedule: linear warm-up, then a cosine or a straight line down.

The number of steps comes from `trainer.max_steps`, never from Lightning's `estimated_stepping_batches`, which drops a restored loader's state.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from vlm.training.parts import learning_rates


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights learn."""

    lr: float = 3e-4  # peak learning rate
    lr_of: dict[str, float] = field(default_factory=dict)  # those of some parts, by name; the longest name counts
    layer_decay: dict[str, float] = field(default_factory=dict)  # of parts: a layer's rate by that of the one behind it
    weight_decay: float = 0.1  # of matrices; vectors and embeddings have none
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 100
    decay: Literal["cosine", "linear"] = "cosine"
    final_fraction: float = 0.1  # where the learning rate ends, as a share of the peak

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr must be above 0, got {self.lr}")
        for name, rate in self.lr_of.items():
            if not 0 < rate < math.inf:
                raise ValueError(
                    f"optimizer.lr_of: the rate of {name} must be above 0, got {rate}; to stop a part learning use model.freeze"
                )
        for name, factor in self.layer_decay.items():
            if not 0 < factor < 1:
                raise ValueError(
                    f"optimizer.layer_decay: the factor of {name} lies between 0 and 1, got {factor}; leave it out for one rate"
                )
        if self.warmup_steps < 0:
            raise ValueError(f"optimizer.warmup_steps must not be negative, got {self.warmup_steps}")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(
                f"optimizer.final_fraction is a share of the peak learning rate, in [0, 1], got {self.final_fraction}"
            )


def parameter_groups(
    model: nn.Module, weight_decay: float, names: Collection[str] | None = None
) -> list[dict[str, object]]:
    """Trained parameters in two groups: matrices decay; vectors (norms, biases) and embeddings do not.

    Args:
        names: of the parameters to group; all where None.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for name, p in model.named_parameters() if p.requires_grad and (names is None or name in names)]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    kept = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = ({"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def schedule(config: OptimizerConfig, max_steps: int) -> Callable[[int], float]:
    """Share of the peak learning rate at each step, 0-based."""

    def share(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        done = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
        falling = (1 + math.cos(math.pi * done)) / 2 if config.decay == "cosine" else 1 - done
        return config.final_fraction + (1 - config.final_fraction) * falling

    return share


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, max_steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """The optimizer over the trained parameters, and its schedule by step."""
    rates = learning_rates(model, config.lr, config.lr_of, config.layer_decay)
    if not rates:
        raise ValueError(
            "every parameter is frozen, there is nothing to train; shorten model.freeze, or add to model.train_only"
        )
    groups: list[dict[str, object]] = []
    # The weights of `optimizer.lr` come first: the log's learning rate is that of the first group.
    for rate in sorted(set(rates.values()), key=lambda rate: (rate != config.lr, -rate)):
        names = {name for name, its_rate in rates.items() if its_rate == rate}
        groups += [group | {"lr": rate} for group in parameter_groups(model, config.weight_decay, names)]
    # One pass over each weight. On a CPU core 6 instead of 17 ms for the demo's 4.3 million; equal to rounding.
    fused = {p.device.type for p in model.parameters() if p.requires_grad} <= {"cpu", "cuda"}
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused or None)
    # A fused optimizer would undo the loss scale by itself, and for that Lightning refuses to clip, also where no scale is.
    optimizer._step_supports_amp_scaling = False
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(config, max_steps))
