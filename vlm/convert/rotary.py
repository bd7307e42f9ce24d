"""Rotary settings of a config.json: `rope_parameters`, or in older files `rope_theta` and `rope_scaling`."""

import math
from typing import Any

from vlm.backbone.rope import RopeScaling

THETA = 10000.0  # of every architecture that is known
COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
OWN = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "attention_factor", "mscale", "mscale_all_dim",
        "beta_fast", "beta_slow", "truncate",
    },
}  # fmt: skip


def read_rotary(config: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """The base of the frequencies, and how positions are stretched.

    Raises:
        ValueError: names what is unknown or missing.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope = {key: value for key, value in given.items() if value is not None}
    theta = rope.get("rope_theta", config.get("rope_theta", THETA))
    turned = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if turned != 1:
        raise ValueError(f"config.json sets partial_rotary_factor: {turned}; here every pair of a head turns")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in OWN:
        raise ValueError(f"config.json has rotary positions of the type {kind!r}; known: {', '.join(OWN)}")
    if unknown := sorted(rope.keys() - COMMON - OWN[kind]):
        raise ValueError(f"config.json sets {unknown[0]}: {rope[unknown[0]]!r} for rotary positions of the type {kind}")
    if kind == "default":
        return float(theta), None
    original = rope.get("original_max_position_embeddings", config.get("max_position_embeddings"))
    factor = rope.get("factor")
    if factor is None and kind == "yarn":
        factor = config["max_position_embeddings"] / original
    if factor is None:
        raise ValueError(f"config.json lacks the factor of its rotary positions of the type {kind}")
    if kind == "linear":
        return float(theta), RopeScaling(kind="linear", factor=float(factor))
    if kind == "llama3":
        if missing := sorted({"low_freq_factor", "high_freq_factor"} - rope.keys()):
            raise ValueError(f"config.json lacks {', '.join(missing)} of its rotary positions of the type llama3")
        return float(theta), RopeScaling(
            kind="llama3",
            factor=float(factor),
            original_positions=original,
            low_frequency_factor=float(rope["low_freq_factor"]),
            high_frequency_factor=float(rope["high_freq_factor"]),
        )
    return float(theta), RopeScaling(
        kind="yarn",
        factor=float(factor),
        original_positions=original,
        # transformers takes 0 for unset, too.
        beta_fast=rope.get("beta_fast") or None,
        beta_slow=rope.get("beta_slow") or None,
        attention_factor=yarn_amplitude(rope, float(factor)),
        truncate=rope.get("truncate"),
    )


def yarn_amplitude(rope: dict[str, Any], factor: float) -> float | None:
    """The factor on cosine and sine where the config says more than `factor`; None where it does not."""
    if "attention_factor" in rope:
        return float(rope["attention_factor"])
    if not (rope.get("mscale") and rope.get("mscale_all_dim")):
        return None

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
