"""Text that comes id by id, against decoding and cutting everything at once."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tokenizer import Tokenizer
from vlm.inference.answer_text import LONGEST, AnswerText, Characters

DEMO = Tokenizer("demo")
ANY_TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40) | st.text("ab😀é漢\ufffd\n ", max_size=60)
ANY_IDS = st.lists(st.integers(0, DEMO.vocab_size - 1), max_size=60)
# Ids whose text is no character, in long runs: single bytes.
BYTES = [number for number in range(DEMO.vocab_size) if DEMO.decode([number]) == "\ufffd"]
ANY_BYTES = st.lists(st.sampled_from(BYTES), max_size=60)


def pieces_of(ids: Iterable[int], stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    answer = AnswerText(DEMO, stop)
    pieces = []
    for token in ids:
        pieces.append(answer.push(token))
        if answer.stopped:
            break
    pieces.append(answer.finish())
    assert "".join(pieces) == answer.text
    return pieces, answer.stopped


def cut_by_loop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Read character by character until what was read ends in a stop string; the longest that does is cut off."""
    for size in range(1, len(text) + 1):
        ends = [one for one in stop if text[:size].endswith(one)]
        if ends:
            return text[: size - max(map(len, ends))], True
    return text, False


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT)
def test_pieces_of_any_text_are_the_text(text: str) -> None:
    pieces, _ = pieces_of(DEMO.encode(text))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(ANY_IDS | ANY_BYTES)
def test_pieces_of_any_ids_are_what_they_decode_to_at_once(ids: list[int]) -> None:
    assert "".join(pieces_of(ids)[0]) == DEMO.decode(ids)


@settings(max_examples=300, deadline=None)
@given(
    st.text("abc😀", max_size=30),
    st.lists(st.text("abc😀", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_a_stop_string_cuts_wherever_token_borders_lie(text: str, stop: tuple[str, ...]) -> None:
    expected = cut_by_loop(text, stop)
    for ids in (DEMO.encode(text), [one for character in text for one in DEMO.encode(character)]):
        pieces, stopped = pieces_of(ids, stop)
        assert ("".join(pieces), stopped) == expected


def test_a_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    answer = AnswerText(DEMO, ("abc",))
    ids = {letter: DEMO.encode(letter)[0] for letter in "abcx"}
    assert [answer.push(ids[letter]) for letter in "xaabxab"] == ["x", "", "a", "", "abx", "", ""]
    assert answer.finish() == "ab"
    assert not answer.stopped


def test_a_sign_for_what_is_no_character_comes_out_at_the_end() -> None:
    ids = DEMO.encode("a\ufffd")
    answer = AnswerText(DEMO)
    assert "".join(answer.push(token) for token in ids) == "a"
    assert answer.finish() == "\ufffd"


def test_half_a_character_at_the_end_is_one_sign() -> None:
    ids = DEMO.encode("😀")
    assert len(ids) > 1
    assert "".join(pieces_of(ids[:-1])[0]) == DEMO.decode(ids[:-1]) == "\ufffd"


@pytest.mark.parametrize("kind", ["words", "bytes", "marks"])
def test_an_id_costs_the_same_however_long_the_answer_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = DEMO.decode
    monkeypatch.setattr(DEMO, "decode", lambda ids: decoded.append(len(ids)) or decode(ids))
    characters = Characters(DEMO)
    ids = {"words": DEMO.encode("a red square ") * 50, "bytes": BYTES[-1:] * 200, "marks": [DEMO.user] * 200}[kind]
    for token in ids:
        characters.push(token)
    assert max(decoded) <= LONGEST + 4
    assert len(decoded) < 4 * len(ids)
