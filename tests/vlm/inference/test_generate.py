"""Answers of a batch that changes as it goes, against whole forward passes of one prompt alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from data.sample import Question
from data.text import Row
from tests.vlm.inference.oracle import logits_by_forward, logprobs_by_forward, longer, row_of
from vlm.inference.generate import Fault, Generation, Piece, Request, generate, stream
from vlm.inference.pictures import PictureFeatures
from vlm.inference.sampling import Sampling
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

Make = Callable[..., Question]


@pytest.fixture
def rows(model: VisionLanguageModel, make_question: Make) -> list[Row]:
    """Ragged on purpose: one picture, two pictures, none, and a longer text."""
    questions = [
        make_question("What is this?", "red", id="one"),
        make_question("Is it the same twice?", "red", "blue", id="two"),
        make_question("How many dogs?", id="blind"),
        make_question("What is this? Is there a cat, or are there one, two or three dogs in it?", "green", id="long"),
    ]
    return [row_of(model, question) for question in questions]


@pytest.fixture
def many(model: VisionLanguageModel, make_question: Make) -> list[Request]:
    """16 requests of different prompts, lengths, pictures and settings."""
    colours: tuple[tuple[str, ...], ...] = ((), ("red",), ("blue", "green"), ())
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"temperature": 1.0, "top_k": 20},
        {"repetition_penalty": 1.7},
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 1.2},
    )
    return [
        Request(
            row_of(model, make_question("Is there a cat? " * (1 + place % 5), *colours[place % 4], id=f"q{place}")),
            Sampling(max_new_tokens=1 + place * 5 % 11, seed=place, **settings[place % 5]),
        )
        for place in range(16)
    ]


def greedy(rows: Sequence[Row], max_new_tokens: int, **settings: Any) -> list[Request]:
    return [Request(row, Sampling(max_new_tokens=max_new_tokens, **settings)) for row in rows]


def with_positions(model: VisionLanguageModel, positions: int) -> Any:
    return replace(model.config, backbone=replace(model.config.backbone, max_positions=positions))


def same(one: Sequence[Generation], other: Sequence[Generation]) -> None:
    """Equal but for the rounding of log-probabilities."""
    for here, there in zip(one, other, strict=True):
        assert replace(here, logprobs=()) == replace(there, logprobs=())
        assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)


def test_greedy_generation_is_the_argmax_of_a_full_forward_at_every_token(
    model: VisionLanguageModel, rows: list[Row]
) -> None:
    for row, said in zip(rows, generate(model, greedy(rows, 12)), strict=True):
        ids: list[int] = []
        for token, logprob in zip(said.ids, said.logprobs, strict=True):
            expected = logprobs_by_forward(model, longer(row, ids))[-1]
            assert int(expected.argmax()) == token
            assert logprob == pytest.approx(float(expected.max()), abs=1e-4)
            ids.append(token)
        assert said.text == model.tokenizer.decode(ids)
        assert said.finish == "length"
        assert not said.ended


def test_a_repetition_penalty_is_that_of_a_loop_over_full_forwards(model: VisionLanguageModel, rows: list[Row]) -> None:
    plain, penalised = generate(model, greedy(rows, 10)), generate(model, greedy(rows, 10, repetition_penalty=1.5))
    assert [said.ids for said in plain] != [said.ids for said in penalised]
    for row, said in zip(rows, penalised, strict=True):
        ids: list[int] = []
        for token, logprob in zip(said.ids, said.logprobs, strict=True):
            logits = logits_by_forward(model, longer(row, ids))[-1]
            less = logits.clone()
            for met in {*row.ids[~row.is_image].tolist(), *ids}:
                less[met] = logits[met] / 1.5 if logits[met] > 0 else logits[met] * 1.5
            assert int(less.argmax()) == token
            assert logprob == pytest.approx(float(logits.log_softmax(0)[token]), abs=1e-4)  # the model's own
            ids.append(token)


def test_batch_1_and_batch_16_and_each_alone_say_the_same(model: VisionLanguageModel, many: list[Request]) -> None:
    together = generate(model, many)
    assert {len(said.ids) for said in together} == set(range(1, 12))
    same(together, [generate(model, [request])[0] for request in many])


@pytest.mark.parametrize("limits", [{"max_sequences": 3}, {"token_budget": 150}])
def test_joining_and_dropping_in_mid_flight_changes_nobodys_answer(
    model: VisionLanguageModel, many: list[Request], limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    joined: list[Sequence[int]] = []
    step, prefill = model.backbone.step, model.backbone.prefill

    def count_steps(x: torch.Tensor, *args: Any, **settings: Any) -> Any:
        steps.append(len(x))
        return step(x, *args, **settings)

    def note_joins(*args: Any, **settings: Any) -> Any:
        if "sequences" in settings:
            joined.append(settings["sequences"])
        return prefill(*args, **settings)

    together = generate(model, many)
    monkeypatch.setattr(model.backbone, "step", count_steps)
    monkeypatch.setattr(model.backbone, "prefill", note_joins)
    same(together, generate(model, many, **limits))
    # Some joined while others were going on.
    assert sum(places[0] > 0 for places in joined) >= 3
    assert sum(map(len, joined)) == 16
    assert sum(steps) == sum(len(said.ids) - 1 for said in together)
    if "max_sequences" in limits:
        assert max(steps) == 3
        ends_at_once = sum(len(said.ids) == 1 for said in together)
        # As full as can be: it takes little more steps than a third of the tokens.
        assert len(steps) <= -(-sum(steps) // 3) + max(len(said.ids) for said in together) + ends_at_once


def test_the_token_budget_holds_and_who_is_too_long_for_it_is_answered_alone(
    model: VisionLanguageModel, many: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, seen = 60, []
    step = model.backbone.step

    def note(x: torch.Tensor, cache: Any, **settings: Any) -> Any:
        seen.append(tuple(held + 1 for held in cache.num_tokens))
        return step(x, cache, **settings)

    monkeypatch.setattr(model.backbone, "step", note)
    sizes = [len(request.row) + request.sampling.max_new_tokens for request in many]
    assert min(sizes) < budget / 3 < budget < max(sizes)
    generate(model, many, token_budget=budget)
    assert all(sum(held) < budget or len(held) == 1 for held in seen)
    assert max(map(len, seen)) > 1


def test_sequences_that_end_drop_out_and_the_others_go_on(
    model: VisionLanguageModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = generate(model, greedy(rows, 10))
    end = free[1].ids[1]
    stopped = generate(model, greedy(rows, 10, stop_ids=(end,)))
    # What one prompt says second now ends every answer, so that prompts end at different times, or not at all.
    assert len({said.ids.index(end) if end in said.ids else None for said in free}) == 3
    monkeypatch.setattr(model.tokenizer, "stop", end)
    ended = generate(model, greedy(rows, 10))
    for before, by_end, by_id in zip(free, ended, stopped, strict=True):
        size = before.ids.index(end) + 1 if end in before.ids else len(before.ids)
        assert by_end.ids == by_id.ids == before.ids[:size]
        assert by_end.text == by_id.text
        assert (by_end.finish, by_id.finish) == (("end", "stop") if end in before.ids else ("length", "length"))
        assert by_end.ended == by_id.ended == (end in before.ids)
    assert ended[1].text == model.tokenizer.decode(free[1].ids[:1])


def test_a_stop_string_cuts_the_text_over_token_borders(model: VisionLanguageModel, rows: list[Row]) -> None:
    for row, said in zip(rows, generate(model, greedy(rows, 16)), strict=True):
        words = said.text.replace("\ufffd", "")
        for start in (0, len(words) // 2, max(0, len(words) - 3)):
            stop = words[start : start + 3]
            if not stop or stop not in said.text:
                continue
            request = Request(row, Sampling(max_new_tokens=16, stop=("never said", stop)))
            pieces = list(stream(model, [request]))
            cut = pieces[-1].generation
            assert cut is not None
            assert cut.finish == "stop"
            assert cut.text == said.text[: said.text.index(stop)] == "".join(piece.text for piece in pieces)
            assert cut.ids == said.ids[: len(cut.ids)]
            assert stop in model.tokenizer.decode(cut.ids)


def test_pieces_come_as_they_are_made_and_are_the_text(model: VisionLanguageModel, many: list[Request]) -> None:
    pieces = list(stream(model, many, max_sequences=5))
    whole = generate(model, many)
    for index, said in enumerate(whole):
        own = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in own) == said.text
        assert [piece.generation is None for piece in own] == [True] * (len(own) - 1) + [False]
        assert own[-1].generation is not None
        same([own[-1].generation], [said])
        assert all(piece.text for piece in own[:-1])
    order = [piece.index for piece in pieces]
    assert order != sorted(order)  # several answers grow at a time


def test_requests_are_taken_when_there_is_room(model: VisionLanguageModel, many: list[Request]) -> None:
    taken: list[int] = []

    def source() -> Iterator[Request]:
        for place, request in enumerate(many):
            taken.append(place)
            yield request

    done = 0
    for piece in stream(model, source(), max_sequences=2):
        assert len(taken) <= done + 2
        done += piece.generation is not None
    assert done == len(many)


def test_between_pieces_the_model_is_as_it_was(model: VisionLanguageModel, rows: list[Row]) -> None:
    model.train()
    model.backbone.decoder.eval()
    model.cached_features = known = lambda keys: []
    try:
        for _ in stream(model, greedy(rows, 4)):
            assert model.training
            assert model.backbone.concept.training
            assert not model.backbone.decoder.training
            assert model.cached_features is known
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
        trained = generate(model, greedy(rows, 4))
    finally:
        model.eval()
        model.cached_features = None
    same(trained, generate(model, greedy(rows, 4)))


def test_a_stream_that_is_closed_leaves_the_model_as_it_was(model: VisionLanguageModel, rows: list[Row]) -> None:
    pieces = stream(model, greedy(rows, 8))
    next(pieces)
    pieces.close()
    assert model.cached_features is None
    assert len(generate(model, greedy(rows, 2))) == 4


def test_a_seed_decides_the_draws_whatever_stands_beside(model: VisionLanguageModel, rows: list[Row]) -> None:
    def drawn(*seeds: int) -> list[tuple[int, ...]]:
        sampled = [Request(rows[0], Sampling(max_new_tokens=8, temperature=1.0, seed=seed)) for seed in seeds]
        return [said.ids for said in generate(model, sampled)]

    assert drawn(5, 6, 5)[::2] == [drawn(5)[0]] * 2
    assert drawn(5) != drawn(6)


def bad_requests(model: VisionLanguageModel, rows: list[Row]) -> dict[str, Request | Fault]:
    sampling = Sampling(max_new_tokens=4)
    cut = replace(rows[0].pictures[0], data=rows[0].pictures[0].data[:90], key="cut")
    empty = replace(
        rows[2],
        **{name: getattr(rows[2], name)[:0] for name in ("ids", "loss", "is_image", "positions")},
    )
    return {
        r"^one: picture of 90 bytes cannot be decoded": Request(replace(rows[0], pictures=(cut,)), sampling),
        r"^blind: the prompt has no tokens": Request(empty, sampling),
        r"^long: the prompt takes \d+ positions and its answer up to 100, .* the model has 110; shorten": Request(
            rows[3], Sampling(max_new_tokens=100)
        ),
        r"^two: the prompt has 32 image slots but its 1 pictures take 16": Request(
            replace(rows[1], pictures=rows[1].pictures[:1]), sampling
        ),
        r"^blind: the prompt has ids from 1 to 999": Request(longer(rows[2], [999]), sampling),
        r"^blind: the stop id 999 has no effect": Request(rows[2], Sampling(stop_ids=(999,))),
        r"^line 3 has no prompt$": Fault("line 3\nhas no prompt"),
    }


@pytest.mark.parametrize("max_sequences", [1, 3, 64])
def test_a_faulty_request_fails_alone(
    model: VisionLanguageModel, rows: list[Row], max_sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(model, greedy(rows, 4))
    bad = bad_requests(model, rows)
    monkeypatch.setattr(model, "config", with_positions(model, 110))
    good: list[Request | Fault] = [*greedy(rows, 4)]
    mixed = [*good[:2], *bad.values(), *good[2:]]
    seen = []
    said = generate(model, mixed, max_sequences=max_sequences, progress=lambda done, total: seen.append((done, total)))
    same([*said[:2], *said[-2:]], expected)
    for (message, _), failed in zip(bad.items(), said[2:-2], strict=True):
        assert failed.finish == "error"
        assert not failed.ended
        assert (failed.text, failed.ids, failed.logprobs) == ("", (), ())
        assert failed.error is not None
        assert "\n" not in failed.error
        with pytest.raises(ValueError, match=message):
            raise ValueError(failed.error)
    assert seen == [(done + 1, len(mixed)) for done in range(len(mixed))]


def test_a_fault_comes_as_one_piece_in_its_place(model: VisionLanguageModel, rows: list[Row]) -> None:
    pieces = list(stream(model, [Fault("bad"), *greedy(rows[2:3], 2)]))
    assert pieces[0] == Piece(0, "", Generation("", (), (), "error", "bad"))
    assert {piece.index for piece in pieces[1:]} == {1}


def test_positions_count_and_not_slots(
    model: VisionLanguageModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = rows[1]
    used = int(row.positions.max()) + 1
    assert used < len(row)
    monkeypatch.setattr(model, "config", with_positions(model, used + 4))
    assert [generate(model, greedy([row], count))[0].finish for count in (4, 5)] == ["length", "error"]


def test_a_model_without_encoder_refuses_the_picture_alone(
    model: VisionLanguageModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "layout", None)
    said = generate(model, greedy(rows, 3))
    assert [one.finish for one in said] == ["error", "error", "length", "error"]
    assert said[0].error == "one: the prompt has a picture but this model has no image encoder; ask without it"


def test_a_picture_is_encoded_once_for_all_requests_and_calls(
    model: VisionLanguageModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.encoder is not None
    encoded: list[int] = []
    encode = model.encoder.encode
    monkeypatch.setattr(model.encoder, "encode", lambda images: encoded.append(len(images)) or encode(images))
    pictures = PictureFeatures(model)
    for limit in (64, 1):
        generate(model, greedy(rows, 4), pictures=pictures, max_sequences=limit)
    assert encoded == [3]  # red (of two prompts), blue, green


def test_features_that_do_not_fit_are_forgotten_and_computed_again(model: VisionLanguageModel, rows: list[Row]) -> None:
    small = PictureFeatures(model, max_bytes=1)
    same(generate(model, greedy(rows, 4), pictures=small, token_budget=40), generate(model, greedy(rows, 4)))
    keys = {picture.feature_key for row in rows for picture in row.pictures}
    assert len(keys) == 3
    assert sum(key in small for key in keys) < 3


@pytest.mark.parametrize("name", ["token_budget", "max_sequences"])
def test_limits_that_make_no_sense_are_refused_at_once(model: VisionLanguageModel, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        stream(model, [], **{name: 0})  # type: ignore[arg-type]


def test_nothing_asked_is_nothing_answered(model: VisionLanguageModel) -> None:
    assert generate(model, []) == []
    assert list(stream(model, iter(()))) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_fail_their_request_alone(
    model: VisionLanguageModel, rows: list[Row], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an overflow in a low precision would give them: the first row of every step is NaN once two tokens are there."""
    logits, calls = model.logits, []

    def broken(hidden: torch.Tensor) -> torch.Tensor:
        calls.append(len(hidden))
        out = logits(hidden)
        return out if len(calls) != 3 else out.index_fill(0, torch.tensor([0]), torch.nan)

    asked = [Request(row, Sampling(max_new_tokens=6, temperature=temperature)) for row in rows[:3]]
    expected = {piece.index: piece.generation for piece in stream(model, asked) if piece.generation}
    monkeypatch.setattr(model, "logits", broken)
    found = {piece.index: piece.generation for piece in stream(model, asked) if piece.generation}
    failed = [index for index, said in found.items() if said.finish == "error"]
    assert len(failed) == 1
    assert "logits are not finite after 2 tokens" in str(found[failed[0]].error)
    others = sorted(set(found) - set(failed))
    same([found[index] for index in others], [expected[index] for index in others])
