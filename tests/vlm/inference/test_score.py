"""Likelihoods of candidates that share a prompt's cache, against whole forward passes."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from data.sample import BadRecord, Question
from data.text import Row
from tests.vlm.inference.oracle import logprobs_by_forward, longer, row_of
from vlm.inference.generate import Request, generate
from vlm.inference.sampling import Sampling
from vlm.inference.score import score
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

CANDIDATES = [["yes", "no", "a red square"], ["one"], ["three dogs", "", "yes"], [], ["cat", "two"]]


@pytest.fixture
def rows(model: VisionLanguageModel, make_question: Callable[..., Question]) -> list[Row]:
    questions = [
        make_question("What is this?", "red", id="one"),
        make_question("Is it the same twice?", "red", "blue", id="two"),
        make_question("How many dogs?", id="blind"),
        make_question("Nothing to choose from", id="none"),
        make_question("What is this? Is there a cat, or are there one, two or three dogs in it?", "green", id="long"),
    ]
    return [row_of(model, question) for question in questions]


def sums_by_forward(model: VisionLanguageModel, rows: list[Row]) -> list[list[float]]:
    expected = []
    for row, listed in zip(rows, CANDIDATES, strict=True):
        sums = []
        for candidate in listed:
            ids = [*model.tokenizer.encode(candidate), model.tokenizer.end]
            logprob = logprobs_by_forward(model, longer(row, ids))
            sums.append(sum(float(logprob[len(row) - 1 + place, token]) for place, token in enumerate(ids)))
        expected.append(sums)
    return expected


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)
def test_scores_are_the_sums_that_one_forward_for_each_candidate_gives(
    model: VisionLanguageModel, rows: list[Row], dtype: torch.dtype, atol: float
) -> None:
    model = deepcopy(model).to(dtype)
    expected = sums_by_forward(model, rows)
    for budget in (8192, 60, 1):
        got = score(model, rows, CANDIDATES, token_budget=budget)
        for here, wanted in zip(got, expected, strict=True):
            assert here == pytest.approx(wanted, abs=atol, rel=0)


def test_a_prompt_is_read_once_for_all_its_candidates(
    model: VisionLanguageModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []

    def note(name: str) -> Any:
        call = getattr(model.backbone, name)
        return lambda x, *args, **settings: read.append((name, len(x))) or call(x, *args, **settings)

    for name in ("prefill", "branch"):
        monkeypatch.setattr(model.backbone, name, note(name))
    score(model, rows, CANDIDATES)
    asked = sum(len(row) for row, listed in zip(rows, CANDIDATES, strict=True) if listed)
    answered = sum(len(model.tokenizer.encode(candidate)) for listed in CANDIDATES for candidate in listed)
    assert read == [("prefill", asked), ("branch", answered)]


def test_the_score_of_a_greedy_answer_is_the_sum_of_its_logprobs(
    model: VisionLanguageModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(rows[0], Sampling(max_new_tokens=3))
    monkeypatch.setattr(model.tokenizer, "stop", generate(model, [request])[0].ids[2])
    said = generate(model, [request])[0]
    monkeypatch.setattr(model.tokenizer, "encode", lambda text: list(said.ids[:-1]))
    assert score(model, rows[:1], [["stands for the answer"]])[0][0] == pytest.approx(sum(said.logprobs), abs=1e-4)


def test_nothing_asked_is_nothing_rated(model: VisionLanguageModel, rows: list[Row]) -> None:
    assert score(model, [], []) == []
    assert score(model, rows[:2], [[], []]) == [[], []]


def test_bad_input_is_refused(model: VisionLanguageModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="got 2 prompts but 1 lists of candidates"):
        score(model, rows[:2], [["yes"]])
    with pytest.raises(ValueError, match="token_budget must be at least 1"):
        score(model, rows[:1], [["yes"]], token_budget=0)
    cut = replace(rows[0].pictures[0], data=rows[0].pictures[0].data[:90], key="cut")
    with pytest.raises(BadRecord, match=r"one: .*cannot be decoded"):
        score(model, [replace(rows[0], pictures=(cut,))], [["yes"]])
    positions = int(rows[2].positions.max()) + 3
    monkeypatch.setattr(
        model, "config", replace(model.config, backbone=replace(model.config.backbone, max_positions=positions))
    )
    with pytest.raises(BadRecord, match=rf"blind: the prompt takes {positions - 2} positions"):
        score(model, rows[2:3], [["How many dogs?"]])
