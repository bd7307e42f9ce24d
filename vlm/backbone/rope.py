"""Frequencies of rotary positions, and how a model that reads further than it was trained to slows them down.

In: settings. Out: an angle per position for each pair of a head, (pairs) float64.
Sources: linear, the positions divided (arXiv 2306.15595); yarn (arXiv 2309.00071); llama3, as Llama 3.1 has it. Names and
rounding are those of `transformers`, whose checkpoints are imported.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

RopeKind = Literal["linear", "llama3", "yarn"]
# What each kind has of its own, beside `factor`; those with a default may be left out.
OF_KIND: dict[str, tuple[str, ...]] = {
    "linear": (),
    "llama3": ("original_positions", "low_frequency_factor", "high_frequency_factor"),
    "yarn": ("original_positions", "beta_fast", "beta_slow", "attention_factor", "truncate"),
}
NEEDED: dict[str, tuple[str, ...]] = {"linear": (), "llama3": OF_KIND["llama3"], "yarn": ("original_positions",)}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Rotary positions stretched to `factor` times what a model was first trained on."""

    kind: RopeKind
    factor: float
    original_positions: int | None = None  # that the model was first trained on; llama3 and yarn
    low_frequency_factor: float | None = None  # llama3: pairs that turn less often than this in them are slowed
    high_frequency_factor: float | None = None  # llama3: pairs that turn more often stay
    beta_fast: float | None = None  # yarn: as above, turns from which on pairs stay; null: 32
    beta_slow: float | None = None  # yarn: turns below which pairs are slowed in full; null: 1
    attention_factor: float | None = None  # yarn: cosine and sine times this; null: 0.1 ln(factor) + 1
    truncate: bool | None = None  # yarn: the ramp between the two begins and ends at whole pairs; null: true

    def __post_init__(self) -> None:
        if self.kind not in get_args(RopeKind):
            raise ValueError(f"unknown kind of rope_scaling {self.kind!r}; known: {', '.join(get_args(RopeKind))}")
        if self.factor < 1:
            raise ValueError(f"rope_scaling.factor stretches positions and must be at least 1, got {self.factor}")
        every = sorted({name for names in OF_KIND.values() for name in names})
        if idle := [name for name in every if getattr(self, name) is not None and name not in OF_KIND[self.kind]]:
            raise ValueError(
                f"rope_scaling of kind {self.kind} does not use {', '.join(idle)}; it has {', '.join(('factor', *OF_KIND[self.kind]))}"
            )
        if missing := [name for name in NEEDED[self.kind] if getattr(self, name) is None]:
            raise ValueError(f"rope_scaling of kind {self.kind} lacks {', '.join(missing)}")
        low, high = self.low_frequency_factor, self.high_frequency_factor
        if low is not None and high is not None and not 0 < low < high:
            raise ValueError(
                f"rope_scaling needs 0 < low_frequency_factor < high_frequency_factor, got {low} and {high}"
            )

    @property
    def amplitude(self) -> float:
        """What cosine and sine are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0


def rope_frequencies(
    theta: float, num_pairs: int, scaling: RopeScaling | None, device: torch.device
) -> Float64[Tensor, " pairs"]:
    """Radians per position of each pair, fast pairs first."""
    pair = torch.arange(num_pairs, device=device, dtype=torch.float64)
    frequency = theta ** (-pair / num_pairs)
    if scaling is None:
        return frequency
    slow = frequency / scaling.factor
    if scaling.kind == "linear":
        return slow
    if scaling.kind == "llama3":
        return _llama3(frequency, slow, scaling)
    stays = _yarn_share(theta, pair, scaling)
    return slow * (1 - stays) + frequency * stays


def _llama3(
    frequency: Float64[Tensor, " pairs"], slow: Float64[Tensor, " pairs"], scaling: RopeScaling
) -> Float64[Tensor, " pairs"]:
    low, high, positions = scaling.low_frequency_factor, scaling.high_frequency_factor, scaling.original_positions
    assert low is not None
    assert high is not None
    assert positions is not None
    turns = positions * frequency / (2 * math.pi)
    stays = ((turns - low) / (high - low)).clamp(0, 1)
    return slow * (1 - stays) + frequency * stays


def _yarn_share(theta: float, pair: Float64[Tensor, " pairs"], scaling: RopeScaling) -> Float64[Tensor, " pairs"]:
    """How much of each pair's frequency stays: 1 for the fast ones, 0 for the slow ones, a ramp between."""
    num_pairs, positions = len(pair), scaling.original_positions
    assert positions is not None

    def pair_with(turns: float) -> float:
        return num_pairs * math.log(positions / (turns * 2 * math.pi)) / math.log(theta)

    first = pair_with(32.0 if scaling.beta_fast is None else scaling.beta_fast)
    last = pair_with(1.0 if scaling.beta_slow is None else scaling.beta_slow)
    if scaling.truncate is not False:
        first, last = math.floor(first), math.ceil(last)
    # The upper bound is an entry of a head, not a pair, as in transformers.
    first, last = max(first, 0), min(last, 2 * num_pairs - 1)
    if first == last:
        last += 0.001
    return 1 - ((pair - first) / (last - first)).clamp(0, 1)
