"""A conversation whose history stays in the cache, against the same conversation read from the beginning."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from data.sample import BadRecord, Message, Part, Question, Sample
from data.text import Row, sample_row
from vlm.inference.conversation import Conversation
from vlm.inference.generate import Generation, Piece, Request, generate
from vlm.inference.sampling import Sampling
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

Make = Callable[..., Question]
SHORT = Sampling(max_new_tokens=5)


@pytest.fixture
def turns(make_question: Make) -> list[Question]:
    return [
        make_question("What is this?", "red"),
        make_question("How many dogs are there?"),
        make_question("Is it the same twice?", "blue", "red"),
    ]


@pytest.fixture
def read(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each prefill read."""
    lengths: list[int] = []
    prefill = model.backbone.prefill

    def note(x: torch.Tensor, documents: Any, *args: Any, **settings: Any) -> Any:
        if len(x) > 1:
            lengths.append(len(x))
        return prefill(x, documents, *args, **settings)

    monkeypatch.setattr(model.backbone, "prefill", note)
    return lengths


def hear(talk: Conversation, turn: Question, sampling: Sampling = SHORT) -> Generation:
    pieces = list(talk.say(turn.content, turn.images, sampling))
    said = pieces[-1].generation
    assert said is not None
    assert "".join(piece.text for piece in pieces) == said.text
    assert all(piece.generation is None for piece in pieces[:-1])
    return said


def rows_by_sample(
    model: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    turns: Sequence[Question],
    answers: Sequence[Sequence[int]],
    system: str | None = None,
) -> Row:
    """The same messages as training reads them; an answer's text has the ids that the model said it by."""
    encode = model.tokenizer.encode
    said = {f"answer {place}": list(ids) for place, ids in enumerate(answers)}
    messages = [Message("system", (Part(text=system),))] if system is not None else []
    images: dict[str, bytes] = {}
    for place, turn in enumerate(turns):
        images |= {f"{place}-{name}": data for name, data in turn.images.items()}
        named = tuple(part if part.image is None else Part(image=f"{place}-{part.image}") for part in turn.content)
        messages += [Message("user", named), Message("assistant", (Part(text=f"answer {place}"),))]
    with monkeypatch.context() as patch:
        patch.setattr(model.tokenizer, "encode", lambda text: said[text] if text in said else encode(text))
        return sample_row(Sample("k", "conversation", None, tuple(messages), images), model.tokenizer, model.layout)


def equal(one: Row, other: Row) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert one.is_image.tolist() == other.is_image.tolist()
    assert one.positions.tolist() == other.positions.tolist()
    assert [picture.feature_key for picture in one.pictures] == [picture.feature_key for picture in other.pictures]


@pytest.mark.parametrize("system", [None, "Say yes or no."])
def test_a_conversation_reads_what_training_reads(
    model: VisionLanguageModel, turns: list[Question], system: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(model, system)
    answers: list[tuple[int, ...]] = []
    for count, turn in enumerate(turns, 1):
        answers.append(hear(talk, turn).ids)
        row = rows_by_sample(model, monkeypatch, turns[:count], answers, system)
        equal(talk.row, row)
        assert talk.num_tokens == len(row)
        assert talk.num_turns == count


def test_every_answer_is_that_of_the_whole_conversation_read_anew(
    model: VisionLanguageModel, turns: list[Question], read: list[int]
) -> None:
    talk = Conversation(model, "Say yes or no.")
    for turn in turns:
        before = talk.num_tokens
        said = hear(talk, turn)
        # The prompt is all of it but the answer and the end token that was added.
        size = talk.num_tokens - len(said.ids) - 1
        # Of what was before, the last id and the end token were not in the cache yet; at first nothing is.
        unread = before if talk.num_turns == 1 else 2
        assert read[-1] == size - before + unread
        whole = talk.row
        prompt = replace(
            whole,
            **{name: getattr(whole, name)[:size] for name in ("ids", "loss", "is_image", "positions")},
        )
        again = generate(model, [Request(prompt, SHORT)])[0]
        assert (said.ids, said.text, said.finish) == (again.ids, again.text, again.finish)
        assert said.logprobs == pytest.approx(again.logprobs, abs=1e-4)


def say_letters(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let every answer be this text, a letter for a token, and then the end."""
    ids = [one for letter in text for one in model.tokenizer.encode(letter)]
    assert len(ids) == len(text)
    spoken = [*ids, model.tokenizer.end]

    def choose(logits: torch.Tensor, draws: Sequence[Any]) -> torch.Tensor:
        draws[0].place = getattr(draws[0], "place", -1) + 1
        return torch.tensor([spoken[draws[0].place]])

    monkeypatch.setattr("vlm.inference.decoding.choose", choose)


def test_the_end_token_is_kept_once_and_read_with_the_next_turn(
    model: VisionLanguageModel, turns: list[Question], monkeypatch: pytest.MonkeyPatch, read: list[int]
) -> None:
    say_letters(model, monkeypatch, "ab")
    talk = Conversation(model)
    said = hear(talk, turns[0])
    assert (said.text, said.finish, said.ids[-1]) == ("ab", "end", model.tokenizer.end)
    equal(talk.row, rows_by_sample(model, monkeypatch, turns[:1], [said.ids[:-1]]))
    before = talk.num_tokens
    hear(talk, turns[1])
    assert read[-1] == 1 + talk.num_tokens - before - len(said.ids)


@pytest.mark.parametrize(
    ("stop", "heard", "stays_read"),
    [
        (("d",), "abc", True),  # one token, that was not read yet
        (("cd",), "ab", False),  # the cache holds the "c", that nobody heard
        (("never",), "abcdef", True),
    ],
)
def test_what_a_stop_cut_off_is_not_in_the_history(
    model: VisionLanguageModel,
    turns: list[Question],
    read: list[int],
    stop: tuple[str, ...],
    heard: str,
    stays_read: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    say_letters(model, monkeypatch, "abcdef")
    talk = Conversation(model)
    assert hear(talk, turns[0], Sampling(stop=stop)).text == heard
    letters = [one for letter in heard for one in model.tokenizer.encode(letter)]
    equal(talk.row, rows_by_sample(model, monkeypatch, turns[:1], [letters]))
    before = talk.num_tokens
    hear(talk, turns[1])
    assert (read[-1] < before) == stays_read


def test_an_interrupted_turn_has_never_been(model: VisionLanguageModel, turns: list[Question]) -> None:
    expected = Conversation(model)
    answers = [hear(expected, turn) for turn in turns[:2]]
    talk = Conversation(model)
    hear(talk, turns[0])
    row = talk.row
    pieces = talk.say(turns[2].content, turns[2].images, Sampling(max_new_tokens=9))
    next(pieces)
    equal(talk.row, row)
    pieces.close()
    equal(talk.row, row)
    left = talk.say(turns[2].content, turns[2].images, SHORT)  # never heard at all
    forgotten = talk.say(turns[2].content, turns[2].images, SHORT)  # heard for a while, then left alone
    next(forgotten)
    assert hear(talk, turns[1]).ids == answers[1].ids
    assert list(left) == list(forgotten) == []
    equal(talk.row, expected.row)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("place", ["prefill", "step"])
def test_an_error_in_mid_answer_leaves_the_conversation_as_it_was(
    model: VisionLanguageModel,
    turns: list[Question],
    place: str,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = Conversation(model)
    answers = [hear(expected, turn) for turn in turns[:2]]
    talk = Conversation(model)
    hear(talk, turns[0])
    row = talk.row
    call = getattr(model.backbone, place)

    def fail(*args: Any, **settings: Any) -> None:
        call(*args, **settings)  # the cache has grown
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model.backbone, place, fail)
        with pytest.raises(error):
            hear(talk, turns[2])
    equal(talk.row, row)
    assert hear(talk, turns[1]).ids == answers[1].ids


def test_undo_and_reset_forget(model: VisionLanguageModel, turns: list[Question]) -> None:
    talk = Conversation(model, "Say yes or no.")
    beginning = talk.num_tokens
    first = hear(talk, turns[0])
    second = hear(talk, turns[1])
    hear(talk, turns[2])
    talk.undo()
    talk.undo()
    assert talk.num_turns == 1
    assert hear(talk, turns[1]).ids == second.ids
    talk.reset()
    assert talk.num_tokens == beginning
    with pytest.raises(ValueError, match="no turn to undo"):
        talk.undo()
    assert hear(talk, turns[0]).ids == first.ids


def test_a_seed_decides_the_draws(model: VisionLanguageModel, turns: list[Question]) -> None:
    drawn = [
        hear(Conversation(model), turns[0], Sampling(max_new_tokens=8, temperature=1.0, seed=seed)).ids
        for seed in (1, 2, 1)
    ]
    assert drawn[0] == drawn[2] != drawn[1]


def test_the_penalty_knows_the_whole_conversation(model: VisionLanguageModel, turns: list[Question]) -> None:
    talk = Conversation(model)
    heard = {*hear(talk, turns[0]).ids}
    said = hear(talk, turns[1], Sampling(max_new_tokens=4, repetition_penalty=1e6))
    assert not heard & {*said.ids}
    assert len({*said.ids}) == 4


def test_a_conversation_that_would_get_too_long_says_so_and_goes_on(
    model: VisionLanguageModel, turns: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(model)
    hear(talk, turns[0])
    row = talk.row
    backbone = replace(model.config.backbone, max_positions=int(row.positions.max()) + 20)
    monkeypatch.setattr(model, "config", replace(model.config, backbone=backbone))
    with pytest.raises(ValueError, match=r"come to \d+ positions .* but the model can have \d+; begin anew"):
        talk.say(turns[1].content, turns[1].images, Sampling(max_new_tokens=30))
    equal(talk.row, row)
    assert hear(talk, turns[1], Sampling(max_new_tokens=2)).finish == "length"


def test_max_tokens_bounds_the_cache(model: VisionLanguageModel, turns: list[Question]) -> None:
    free = Conversation(model)
    hear(free, turns[0])
    talk = Conversation(model, max_tokens=free.num_tokens)
    assert hear(talk, turns[0]).finish == "length"
    with pytest.raises(ValueError, match=r"come to \d+ tokens .* but it may have \d+; begin anew"):
        talk.say(turns[1].content, turns[1].images, SHORT)
    talk.reset()
    assert hear(talk, turns[0]).finish == "length"
    with pytest.raises(ValueError, match="it may have 2"):
        Conversation(model, "Say yes or no.", max_tokens=2)


def test_bad_input_is_refused_before_anything_changes(model: VisionLanguageModel, turns: list[Question]) -> None:
    with pytest.raises(ValueError, match="system's text is empty"):
        Conversation(model, "")
    talk = Conversation(model)
    hear(talk, turns[1])
    row = talk.row
    cut = {"0.png": turns[0].images["0.png"][:90]}
    for content, images, message in (
        ((), {}, "nothing is said"),
        ((Part(text=" "),), {}, "nothing is said"),
        (turns[0].content, {}, "names the picture '0.png' but does not have it"),
        (turns[0].content, cut, "cannot be decoded"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            talk.say(content, images, SHORT)
        assert isinstance(error.value, BadRecord) == ("said" not in message)
        equal(talk.row, row)
    with pytest.raises(BadRecord, match="stop id 999 has no effect"):
        talk.say(turns[0].content, turns[0].images, Sampling(stop_ids=(999,)))
    expected = Conversation(model)
    hear(expected, turns[1])
    assert hear(talk, turns[0]).ids == hear(expected, turns[0]).ids


def test_between_pieces_the_model_is_as_it_was(model: VisionLanguageModel, turns: list[Question]) -> None:
    model.train()
    try:
        for piece in Conversation(model).say(turns[0].content, turns[0].images, SHORT):
            assert isinstance(piece, Piece)
            assert model.training
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
    finally:
        model.eval()
