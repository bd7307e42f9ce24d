import pytest
import torch

from vlm.bench.parts import Pair, attention, chunker, experts, measure

pytestmark = pytest.mark.long

DEVICE = torch.device("cpu")


def spin(turns: int) -> None:
    for _ in range(turns):
        sum(range(1000))


def test_the_ratio_says_how_many_times_as_long_the_peer_takes() -> None:
    time = measure(Pair("some", "more", lambda: spin(20), lambda: spin(200)), rounds=5)
    assert time.ratio == pytest.approx(10, rel=0.5)
    assert time.peer_s > time.ours_s


@pytest.mark.parametrize(
    "pair", [experts(8, 16, 2, 1, 8, DEVICE), attention(2, DEVICE, num_tokens=8)], ids=["experts", "attention"]
)
def test_a_part_and_its_peer_run_forward_and_backward(pair: Pair) -> None:
    assert measure(pair, rounds=1).ours_s > 0


@pytest.mark.long
def test_the_chunker_is_a_small_share_of_its_step() -> None:
    """3 % at this width where nothing else runs; twice that leaves room for a busy machine."""
    assert measure(chunker(DEVICE, num_tokens=512), rounds=3).ratio > 1 / 0.06
