from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vlm.bench.parts import Pair, attention, chunker, experts, measure

DEVICE = torch.device("cpu")


class Flops(TorchDispatchMode):
    """What torch's own counter counts; that one also follows modules, and fails where gradients of leaves are asked for."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def test_the_ratio_says_how_many_times_as_long_the_peer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ours, peer = 0.0, iter((9.0, 1.0, 2.0, 4.0)), iter((9.0, 10.0, 22.0, 36.0))

    def take(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("vlm.bench.timing.time.process_time", lambda: now)
    time = measure(Pair("some", "more", lambda: take(next(ours)), lambda: take(next(peer))), rounds=3)
    assert (time.ours_s, time.peer_s, time.ratio) == (2, 22, 10)  # of the rounds: 10, 11, 9
    assert time.spread == 0.2


@pytest.mark.parametrize(
    "pair", [experts(8, 16, 2, 1, 8, DEVICE), attention(2, DEVICE, num_tokens=8)], ids=["experts", "attention"]
)
def test_a_part_and_its_peer_run_forward_and_backward(pair: Pair) -> None:
    measure(pair, rounds=1)


@pytest.mark.long
def test_the_chunker_is_a_small_share_of_its_step() -> None:
    """2.6 % by FLOPs, which do not depend on what else the machine does; for times see `vlm bench parts`."""
    torch.manual_seed(0)
    pair = chunker(DEVICE, num_tokens=512)
    with Flops() as ours:
        pair.run_ours()
    with Flops() as step:
        pair.run_peer()
    assert 0 < ours.total / step.total < 0.03
