"""A line-up small enough for tests: the shape of the measured one, and all of its kinds of model."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from vlm.backbone import BackboneConfig, ExpertsConfig
from vlm.bench.lineup import Lineup, line_up
from vlm.bench.models import PLAIN


@pytest.fixture
def small() -> BackboneConfig:
    experts = ExpertsConfig(num_experts=16, top_k=2, hidden=16)
    return replace(PLAIN, width=48, num_heads=6, num_kv_heads=6, head_width=8, concept_layers=2, experts=experts)


@pytest.fixture
def lined_up(small: BackboneConfig) -> Callable[..., Lineup]:
    return lambda *names: line_up(plain=small, names=names, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between rounds garbage is collected, which with all libraries loaded takes longer than a small round."""
    monkeypatch.setattr("vlm.bench.timing.gc.collect", lambda: 0)
