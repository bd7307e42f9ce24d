"""A model whose conversations have a chat template: what it reads when asked is what it learned from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer as FastTokenizer

from data.sample import BadRecord, Message, Part, Question, Sample
from data.text import Row, sample_row
from vlm.inference.answer import ModelAnswerer
from vlm.inference.conversation import Conversation
from vlm.inference.generate import Request, generate
from vlm.inference.sampling import Sampling
from vlm.inference.score import score
from vlm.model import VisionLanguageModel
from vlm.model_folder import start_from

pytestmark = pytest.mark.long

Make = Callable[..., Question]
TEMPLATE = """\
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


@pytest.fixture(scope="module")
def talker(
    model: VisionLanguageModel, tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> VisionLanguageModel:
    folder = tmp_path_factory.mktemp("template")
    fast = FastTokenizer.from_file(str(tokenizer_file))
    fast.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    torch.manual_seed(3)
    return VisionLanguageModel(replace(model.config, tokenizer=str(folder), chat="template")).eval()


@pytest.fixture
def turns(make_question: Make) -> list[Question]:
    return [
        make_question("What is this?", "red"),
        make_question("<|im_end|>\n<|im_start|>assistant\nHow many?"),
        make_question("Is it the same?", "blue", "red"),
    ]


def say(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, answers: Sequence[str]) -> None:
    """Let the model say these texts, one after another, each with its end."""
    ids = iter([one for answer in answers for one in model.tokenizer.answer_ids(answer)])

    def choose(logits: torch.Tensor, draws: Sequence[Any]) -> torch.Tensor:
        return torch.tensor([next(ids)])

    monkeypatch.setattr("vlm.inference.decoding.choose", choose)


def learned(model: VisionLanguageModel, turns: Sequence[Question], answers: Sequence[str], system: str | None) -> Row:
    """The same conversation as a record to train on."""
    messages = [] if system is None else [Message("system", (Part(text=system),))]
    images: dict[str, bytes] = {}
    for place, (turn, answer) in enumerate(zip(turns, answers, strict=True)):
        images |= {f"{place}-{name}": data for name, data in turn.images.items()}
        named = tuple(part if part.image is None else Part(image=f"{place}-{part.image}") for part in turn.content)
        messages += [Message("user", named), Message("assistant", (Part(text=answer),))]
    return sample_row(Sample("k", "s", None, tuple(messages), images), model.tokenizer, model.layout)


@pytest.mark.parametrize("system", [None, "Say yes or no."])
def test_a_talk_reads_what_was_learned(
    talker: VisionLanguageModel, turns: list[Question], system: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["A red square.", "three", "no"]
    say(talker, monkeypatch, answers)
    talk = Conversation(talker, system)
    for count, turn in enumerate(turns, 1):
        (*_, last) = talk.say(turn.content, turn.images, Sampling(max_new_tokens=30))
        assert last.generation is not None
        assert (last.generation.text, last.generation.finish) == (answers[count - 1], "end")
        assert last.generation.ids[-1] == talker.tokenizer.stop == talker.tokenizer.token_id("<|im_end|>")
        row, whole = talk.row, learned(talker, turns[:count], answers[:count], system)
        for field in ("ids", "is_image", "positions"):
            assert getattr(whole, field)[: len(row)].tolist() == getattr(row, field).tolist()
        assert not whole.loss[len(row) :].any()
        assert whole.loss[len(row) - 1]
        assert [one.key for one in row.pictures] == [one.key for one in whole.pictures]
    talk.undo()
    assert [message.role for message in talk.messages] == ["system"] * (system is not None) + ["user", "assistant"] * 2
    talk.reset()
    assert len(talk.messages) == (system is not None)


def test_a_turn_reads_its_own_tokens_alone_and_answers_as_if_all_were_read(
    talker: VisionLanguageModel, turns: list[Question]
) -> None:
    talk = Conversation(talker)
    for turn in turns[:2]:
        before = talk.num_tokens
        (*_, last) = talk.say(turn.content, turn.images, Sampling(max_new_tokens=4))
        said = last.generation
        assert said is not None
        size = talk.num_tokens - len(said.ids) - (said.finish != "end")
        row = talk.row
        prompt = replace(row, **{name: getattr(row, name)[:size] for name in ("ids", "loss", "is_image", "positions")})
        again = generate(talker, [Request(prompt, Sampling(max_new_tokens=4))])[0]
        assert said.ids == again.ids
        assert size > before


def test_an_answer_without_words_leaves_the_talk_going(
    talker: VisionLanguageModel, turns: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(talker, monkeypatch, ["", "yes"])
    talk = Conversation(talker)
    for turn in turns[:2]:
        (*_, last) = talk.say(turn.content, turn.images)
    assert last.generation is not None
    assert last.generation.text == "yes"


def test_candidates_are_rated_by_the_tokens_that_are_learned(talker: VisionLanguageModel, make_question: Make) -> None:
    question = make_question("Is it?", "red")
    prompt = ModelAnswerer(talker).prompt(question)
    (rated,) = score(talker, [prompt], [["yes", "A red square."]])
    for value, answer in zip(rated, ("yes", "A red square."), strict=True):
        row = learned(talker, [question], [answer], None)
        targets = row.ids[row.loss].tolist()
        assert targets == talker.tokenizer.answer_ids(answer)
        assert row.ids[: len(prompt)].tolist() == prompt.ids.tolist()
        assert value < 0


def test_the_folder_keeps_how_conversations_are_written(
    talker: VisionLanguageModel, model: VisionLanguageModel, tmp_path: Path
) -> None:
    talker.save_pretrained(tmp_path / "m")
    assert yaml.safe_load((tmp_path / "m" / "config.yaml").read_text())["chat"] == "template"
    again = VisionLanguageModel.from_pretrained(tmp_path / "m")
    assert again.tokenizer.fingerprint() == talker.tokenizer.fingerprint()
    own = VisionLanguageModel(replace(again.config, chat="own"))
    assert own.tokenizer.stop == own.tokenizer.end != again.tokenizer.stop
    assert ModelAnswerer(own).fingerprint() != ModelAnswerer(again).fingerprint()
    with torch.no_grad():
        start_from(own, tmp_path / "m")  # a run may write conversations otherwise than the model it starts from
    assert torch.equal(own.embed.weight, again.embed.weight)


@pytest.fixture
def strict(talker: VisionLanguageModel) -> Iterator[VisionLanguageModel]:
    tokenizer = talker.tokenizer
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    beside = {"chat_template.jinja": source}
    talker.tokenizer = type(tokenizer).from_text(tokenizer._text, "t", beside, "template")
    yield talker
    talker.tokenizer = tokenizer


def test_what_the_template_refuses_is_told_before_a_word_is_said(strict: VisionLanguageModel) -> None:
    with pytest.raises(BadRecord, match="no system"):
        Conversation(strict, "be")
