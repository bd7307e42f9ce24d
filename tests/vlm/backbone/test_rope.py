"""Stretched rotary positions: what each kind does to fast and slow pairs. Their values are held to transformers' in tests/vlm/convert."""

from typing import Any

import pytest
import torch

from vlm.backbone.layers import Rotary, rotate
from vlm.backbone.rope import RopeScaling, rope_frequencies

CPU = torch.device("cpu")
LLAMA3: dict[str, Any] = {"low_frequency_factor": 1.0, "high_frequency_factor": 4.0, "original_positions": 8192}


def test_linear_scaling_divides_positions() -> None:
    scaled = Rotary(8, 100.0, RopeScaling(kind="linear", factor=4.0))(torch.arange(0, 40, 4), torch.float64)
    plain = Rotary(8, 100.0)(torch.arange(10), torch.float64)
    torch.testing.assert_close(scaled, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "scaling",
    [RopeScaling(kind="llama3", factor=8.0, **LLAMA3), RopeScaling(kind="yarn", factor=8.0, original_positions=8192)],
)
def test_fast_pairs_stay_slow_pairs_are_divided_and_none_is_faster_or_slower_than_that(scaling: RopeScaling) -> None:
    plain, scaled = (rope_frequencies(5e5, 64, one, CPU) for one in (None, scaling))
    share = scaled / plain
    assert share[0] == 1
    torch.testing.assert_close(share[-1], torch.tensor(1 / 8, dtype=torch.float64))
    assert (share.diff() <= 1e-12).all()
    assert ((share > 0.13) & (share < 0.99)).any()


def test_yarn_makes_queries_and_keys_longer_and_its_gradient_is_that_of_autograd() -> None:
    scaling = RopeScaling(kind="yarn", factor=8.0, original_positions=16)
    angles = Rotary(8, 100.0, scaling)(torch.arange(5), torch.float64)
    x = torch.randn(5, 2, 8, dtype=torch.float64, requires_grad=True)
    lengths = rotate(x, *angles).norm(dim=-1) / x.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 1.2079441541679836), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda given: rotate(given, *angles), (x,))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "linear", "factor": 0.5}, "must be at least 1, got 0.5"),
        ({"kind": "linear", "factor": 2.0, "beta_fast": 8.0}, "does not use beta_fast; it has factor"),
        ({"kind": "yarn", "factor": 2.0}, "of kind yarn lacks original_positions"),
        ({"kind": "llama3", "factor": 2.0}, "lacks original_positions, low_frequency_factor, high_frequency_factor"),
        ({"kind": "llama3", "factor": 2.0, **LLAMA3, "low_frequency_factor": 4.0}, "0 < low_frequency_factor < high"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RopeScaling(**settings)
