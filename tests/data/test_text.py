import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.image import ImageLayout
from data.sample import BadRecord, Message, Part, Sample
from data.text import join_rows, opening_row, prompt_row, sample_row, token_row, turn_row
from data.tokenizer import SPECIAL_TOKENS, Tokenizer


def document(*parts: Part, **images: bytes) -> Sample:
    return Sample("k", "s", parts, None, images)


def test_special_tokens_are_found_by_name(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.pad, tokenizer.bos, tokenizer.end, tokenizer.system, tokenizer.user, tokenizer.assistant]
    assert [*ids, tokenizer.image] == list(range(7))


@given(text=st.text())
def test_any_text_comes_back_unchanged(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert min(ids, default=7) >= 7


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("text", ["{}", "a {} b", "{}{}", "x{}"])
def test_text_that_spells_a_special_token_stays_text(tokenizer: Tokenizer, token: str, text: str) -> None:
    ids = tokenizer.encode(text.replace("{}", token))
    assert min(ids) >= 7
    assert tokenizer.decode(ids) == text.replace("{}", token)


def test_decoding_drops_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.bos, *tokenizer.encode("a cat"), tokenizer.end]) == "a cat"


def test_a_tokenizer_survives_saving_and_pickling(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for copy in (Tokenizer(tmp_path), Tokenizer(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.fingerprint() == tokenizer.fingerprint()
        assert copy.encode("a <|end|>") == tokenizer.encode("a <|end|>")


def test_a_missing_special_token_is_named_with_the_file(tokenizer_file: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer_file.read_text().replace("<|image|>", "<|other|>"))
    with pytest.raises(ValueError, match=r"tokenizer\.json.*<\|image\|>"):
        Tokenizer(tmp_path)


def test_a_tokenizer_that_would_take_text_for_tokens_is_refused(tokenizer_file: Path, tmp_path: Path) -> None:
    fields = json.loads(tokenizer_file.read_text())
    for token in fields["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="special: true"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "\x00"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=r"t\.json"):
        Tokenizer(tmp_path / "t.json")


def test_a_document_carries_loss_on_its_text_and_its_end(
    tokenizer: Tokenizer, layout: ImageLayout, make: SimpleNamespace
) -> None:
    sample = document(Part(text="see"), Part(image="0.png"), Part(text="cat"), **{"0.png": make.picture(0)})
    row = sample_row(sample, tokenizer, layout, augmentation=2)
    see, cat = tokenizer.encode("see"), tokenizer.encode("cat")
    assert row.ids.tolist() == [tokenizer.bos, *see, *[tokenizer.image] * 6, *cat, tokenizer.end]
    assert row.loss.tolist() == [False, *[True] * len(see), *[False] * 6, *[True] * (len(cat) + 1)]
    assert row.is_image.tolist() == (row.ids == tokenizer.image).tolist()
    assert [picture.feature_key[-2:] for picture in row.pictures] == ["-2"]
    assert row.sample_id == "s"


def test_a_conversation_carries_loss_on_the_assistant_alone(tokenizer: Tokenizer) -> None:
    turns = (("system", "be"), ("user", "a"), ("assistant", "bc"), ("user", "a"), ("assistant", "cat"))
    messages = tuple(Message(role, (Part(text=text),)) for role, text in turns)
    row = sample_row(Sample("k", "s", None, messages, {}), tokenizer, None)
    ids, loss = [tokenizer.bos], [False]
    for role, text in turns:
        told = role == "assistant"
        ids += [getattr(tokenizer, role), *tokenizer.encode(text), tokenizer.end]
        loss += [False, *[told] * (len(tokenizer.encode(text)) + 1)]
    assert row.ids.tolist() == ids
    assert row.loss.tolist() == loss


def test_time_stands_still_in_a_picture_and_goes_on_after_it(
    tokenizer: Tokenizer, layout: ImageLayout, make: SimpleNamespace
) -> None:
    row = sample_row(document(Part(image="p"), Part(image="p"), p=make.picture(0)), tokenizer, layout)
    grid = [(r, c) for r in range(2) for c in range(3)]
    pictures = [[start, start + r, start + c] for start in (1, 4) for r, c in grid]
    assert row.positions.tolist() == [[0, 0, 0], *pictures, [7, 7, 7]]


def test_a_prompt_opens_the_assistants_turn(tokenizer: Tokenizer) -> None:
    row = prompt_row((Part(text="a cat"),), {}, tokenizer, None)
    wanted = [tokenizer.bos, tokenizer.user, *tokenizer.encode("a cat"), tokenizer.end, tokenizer.assistant]
    assert row.ids.tolist() == wanted
    assert not row.loss.any()
    answered = prompt_row((Part(text="a cat"),), {}, tokenizer, None, answer="yes")
    assert answered.ids.tolist() == [*wanted, *tokenizer.encode("yes"), tokenizer.end]
    assert answered.loss.tolist() == [False] * len(wanted) + [True] * (len(tokenizer.encode("yes")) + 1)


def test_a_prompt_with_its_answer_is_the_conversation(tokenizer: Tokenizer) -> None:
    parts = (Part(text="a"),)
    messages = (Message("user", parts), Message("assistant", (Part(text="cat"),)))
    row = sample_row(Sample("k", "s", None, messages, {}), tokenizer, None)
    prompt = prompt_row(parts, {}, tokenizer, None, answer="cat")
    assert (row.ids.tolist(), row.loss.tolist()) == (prompt.ids.tolist(), prompt.loss.tolist())


@pytest.mark.parametrize("system", [None, "be brief"])
def test_turn_by_turn_is_the_conversation(
    tokenizer: Tokenizer, layout: ImageLayout, make: SimpleNamespace, system: str | None
) -> None:
    images = {"p": make.picture(0)}
    asked = [(Part(image="p"), Part(text="a cat")), (Part(text="a"), Part(image="p"))]
    messages = [] if system is None else [Message("system", (Part(text=system),))]
    rows = [opening_row(system, tokenizer)]
    for parts in asked:
        rows.append(turn_row(parts, images, tokenizer, layout, int(rows[-1].positions.max()) + 1, messages))
        messages += [Message("user", parts), Message("assistant", (Part(text="yes"),))]
        rows.append(token_row([*tokenizer.encode("yes"), tokenizer.end], int(rows[-1].positions.max()) + 1))
    whole = sample_row(Sample("k", "s", None, tuple(messages), images), tokenizer, layout)
    joined = join_rows(rows)
    assert joined.ids.tolist() == whole.ids.tolist()
    assert joined.is_image.tolist() == whole.is_image.tolist()
    assert joined.positions.tolist() == whole.positions.tolist()
    assert joined.pictures == whole.pictures


def test_a_picture_without_an_encoder_is_an_error_of_the_settings(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="no image encoder") as error:
        sample_row(document(Part(image="p"), p=make.picture(0)), tokenizer, None)
    assert not isinstance(error.value, BadRecord)


def test_a_bad_header_names_record_and_picture(tokenizer: Tokenizer, layout: ImageLayout) -> None:
    with pytest.raises(BadRecord, match=r"'s', p: .*no JPEG"):
        sample_row(document(Part(image="p"), p=b"GIF89a"), tokenizer, layout)
