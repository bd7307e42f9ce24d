"""How a token is chosen, against the same formulas written as loops."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import vlm.inference.sampling
from vlm.inference.sampling import Draw, Sampling, choose

CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.5, -3.0, 0.5])


def draw_of(sampling: Sampling, met: tuple[int, ...] = ()) -> Draw:
    return Draw(sampling, torch.tensor(met, dtype=torch.long), len(LOGITS), CPU)


def shares_by_loop(logits: Tensor, sampling: Sampling, met: tuple[int, ...] = ()) -> list[float]:
    """The probability of each token, step by step."""
    values = logits.tolist()
    for token in set(met):
        factor = sampling.repetition_penalty
        values[token] = values[token] / factor if values[token] > 0 else values[token] * factor
    order = sorted(range(len(values)), key=lambda token: -values[token])
    left = order[: sampling.top_k]
    weights = {token: math.exp(values[token] / sampling.temperature) for token in left}
    total = sum(weights.values())
    if sampling.top_p is not None:
        kept, mass = [], 0.0
        for token in left:
            if mass < sampling.top_p:
                kept.append(token)
            mass += weights[token] / total
        left = kept
    total = sum(weights[token] for token in left)
    return [weights[token] / total if token in left else 0.0 for token in range(len(values))]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.5, "top_k": 4, "top_p": 0.7},
        {"temperature": 1.0, "repetition_penalty": 1.8},
        {"temperature": 0.7, "top_k": 2, "repetition_penalty": 0.5},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(settings: dict[str, float]) -> None:
    count, met = 4000, (0, 1, 1)
    samplings = [Sampling(seed=seed, **settings) for seed in range(count)]  # type: ignore[arg-type]
    drawn = choose(LOGITS.repeat(count, 1), [draw_of(sampling, met) for sampling in samplings])
    share = torch.bincount(drawn, minlength=len(LOGITS)) / count
    expected = torch.tensor(shares_by_loop(LOGITS, samplings[0], met))
    # Three standard errors of the least certain share are 0.024.
    torch.testing.assert_close(share, expected, atol=0.024, rtol=0)
    assert not share[expected == 0].any()


def test_a_batch_of_different_settings_gives_each_what_it_gets_alone() -> None:
    samplings = [
        Sampling(),
        Sampling(repetition_penalty=3.0),
        Sampling(temperature=1.0, seed=4),
        Sampling(temperature=1.0, top_k=2, seed=5),
        Sampling(temperature=0.6, top_p=0.5, repetition_penalty=1.5, seed=6),
        Sampling(temperature=1.0, seed=4),
    ]
    together, alone = ([draw_of(sampling, (0,)) for sampling in samplings] for _ in range(2))
    for turn in range(8):
        logits = torch.randn(len(samplings), len(LOGITS), generator=torch.Generator().manual_seed(turn))
        logits[5] = logits[2]
        tokens = choose(logits, together).tolist()
        assert tokens == [int(choose(row[None], [draw])) for row, draw in zip(logits, alone, strict=True)]
        assert tokens[2] == tokens[5]
        assert tokens[0] == int(logits[0].argmax())


def test_the_penalty_is_that_of_the_loop() -> None:
    sampling = Sampling(repetition_penalty=100.0)
    draw = draw_of(sampling, (0,))
    said = []
    for _ in range(4):
        said.append(int(choose(LOGITS[None], [draw])))
        draw.meet(said[-1])
    met, expected = [0], []
    for _ in range(4):
        values = [
            value if token not in met else value / 100 if value > 0 else value * 100
            for token, value in enumerate(LOGITS.tolist())
        ]
        expected.append(values.index(max(values)))
        met.append(expected[-1])
    assert said == expected == [3, 2, 5, 0]


def test_a_few_of_many_tokens_are_enough_or_all_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)) * 2
    cuts: tuple[dict[str, float], ...] = (
        {"top_k": 3},
        {"top_k": 20, "top_p": 0.9},
        {"top_p": 0.5},
        {"top_p": 0.99},
        {},
    )

    def drawn() -> list[int]:
        settings = [{"temperature": 1.0, "seed": seed, **cuts[seed % len(cuts)]} for seed in range(len(logits))]
        samplings = [Sampling(**one) for one in settings]  # type: ignore[arg-type]
        return choose(logits, [Draw(one, torch.tensor([0]), 50, CPU) for one in samplings]).tolist()

    expected = drawn()
    for few in (1, 4, 10):
        monkeypatch.setattr(vlm.inference.sampling, "FEW", few)
        assert drawn() == expected


def test_greedy_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_draw_whole", "_draw_cut"):
        monkeypatch.setattr(vlm.inference.sampling, name, lambda *_: pytest.fail("something was drawn"))
    tied = torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -1.0]])
    draws = [Draw(Sampling(), torch.tensor([1]), 3, CPU) for _ in range(2)]
    assert choose(tied, draws).tolist() == [1, 0]
    assert all(draw.stream is None and draw.met is None for draw in draws)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e30])
def test_no_temperature_is_too_low_or_too_high(temperature: float) -> None:
    token = choose(LOGITS[None] * 1e4, [draw_of(Sampling(temperature=temperature, seed=1))])
    assert 0 <= int(token) < len(LOGITS)
    if temperature < 1:
        assert int(token) == 0


def test_a_single_token_left_is_drawn_whatever_the_number() -> None:
    logits = torch.full((1, 5), -math.inf)
    logits[0, 4] = 0.0
    for seed in range(50):
        for more in ({}, {"top_k": 3}, {"top_p": 1.0}):
            draw = Draw(Sampling(temperature=1.0, seed=seed, **more), torch.tensor([0]), 5, CPU)  # type: ignore[arg-type]
            assert int(choose(logits, [draw])) == 4


@pytest.mark.parametrize(
    "settings", [{"top_p": 5e-324}, {"top_p": 1e-300, "top_k": 3}, {"top_k": 10**400}, {"repetition_penalty": 0.001}]
)
def test_extremes_draw_a_token_that_there_is(settings: dict[str, Any]) -> None:
    draw = Draw(Sampling(temperature=1.0, seed=3, **settings), torch.tensor([0]), len(LOGITS), CPU)
    assert 0 <= int(choose(LOGITS[None], [draw])) < len(LOGITS)
    for wrong in (math.nan, math.inf, -math.inf):
        assert 0 <= int(choose(torch.full_like(LOGITS[None], wrong), [draw])) < len(LOGITS)


def test_settings_of_another_type_are_refused() -> None:
    """In a process of its own: in the tests' own one the check of types would answer first."""
    code = """
from vlm.inference.sampling import Sampling
for settings in (
    {"max_new_tokens": 1.5}, {"temperature": "1"}, {"seed": None}, {"top_k": 2.5}, {"stop_ids": (1.5,)}, {"stop": (b"x",)},
):
    try:
        Sampling(**({"temperature": 1.0} | settings))
    except ValueError as error:
        print("told", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.count("told") == 6, done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": math.nan}, "temperature must be 0"),
        ({"top_p": 0.5}, "top_p = 0.5 has no effect at temperature 0"),
        ({"top_k": 5}, "top_k = 5 has no effect at temperature 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "share of probability"),
        ({"temperature": 1.0, "top_p": 0.0}, "share of probability"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is a number of tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must lie between 0.001 and 1e6"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty must lie between 0.001 and 1e6"),
        ({"stop": ("",)}, "none of them empty"),
        ({"stop_ids": (-1,)}, "stop_ids are token ids"),
        ({"seed": -1}, "seed must be 0 or above"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]
