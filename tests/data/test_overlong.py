from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch import collate
from data.image import ImageLayout
from data.overlong import fit_row
from data.sample import BadRecord, Message, Part, Sample
from data.text import Row, sample_row
from data.tokenizer import Tokenizer

SLOTS = 6  # of a picture here
PARTS = st.lists(st.sampled_from(["<0>", "<1>", "a", "a cat", "word " * 9]), min_size=1, max_size=6)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), PARTS), min_size=1, max_size=8)


def parts_of(words: Sequence[str], make: SimpleNamespace) -> tuple[tuple[Part, ...], dict[str, bytes]]:
    images = {f"{n}.png": make.picture(n) for n in (0, 1)}
    named = {"<0>": Part(image="0.png"), "<1>": Part(image="1.png")}
    return tuple(named.get(word) or Part(text=word) for word in words), images


def document(words: Sequence[str], tokenizer: Tokenizer, make: SimpleNamespace) -> Row:
    parts, images = parts_of(words, make)
    return sample_row(Sample("k", "s", parts, None, images), tokenizer, ImageLayout(make.spec, (2, 3)))


def conversation(turns: Sequence[tuple[str, Sequence[str]]], tokenizer: Tokenizer, make: SimpleNamespace) -> Row:
    messages = tuple(Message(role, parts_of(words, make)[0]) for role, words in turns)
    sample = Sample("k", "s", None, messages, parts_of((), make)[1])
    return sample_row(sample, tokenizer, ImageLayout(make.spec, (2, 3)))


def targets(rows: Sequence[Row]) -> list[int]:
    return [int(token) for row in rows for token in row.ids[1:][row.loss[1:]]]


def keys(rows: Sequence[Row]) -> list[str]:
    return [picture.key for row in rows for picture in row.pictures]


def check(rows: Sequence[Row], row_tokens: int, tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    """What a batch asks of its rows, and of a piece beside it."""
    if rows:
        collate(rows, make.spec).check()
    for row in rows:
        assert len(row) <= row_tokens
        assert row.ids[0] == tokenizer.bos
        assert (row.ids == tokenizer.bos).sum() == 1
        time = row.positions[:, 0]
        text = np.flatnonzero(~row.is_image)
        assert (row.positions[text] == time[text, None]).all()
        assert (np.diff(time)[~(row.is_image[1:] & row.is_image[:-1])] >= 1).all()


def is_within(some: Sequence[str], whole: Sequence[str]) -> bool:
    """True for a part of a list in its order."""
    rest = iter(whole)
    return all(one in rest for one in some)


@settings(deadline=None)
@given(words=PARTS, row_tokens=st.integers(SLOTS + 1, 60))
def test_a_split_document_loses_no_target_and_repeats_none(
    tokenizer: Tokenizer, make: SimpleNamespace, words: list[str], row_tokens: int
) -> None:
    row = document(words, tokenizer, make)
    pieces = fit_row(row, row_tokens, "split")
    check(pieces, row_tokens, tokenizer, make)
    assert targets(pieces) == targets([row])
    assert is_within(keys(pieces), keys([row]))
    assert [piece.sample_id for piece in pieces] == ["s", "s#1", "s#2", *(f"s#{n}" for n in range(3, 99))][
        : len(pieces)
    ]


@settings(deadline=None)
@given(words=PARTS, row_tokens=st.integers(2 * SLOTS + 2, 60))
def test_pictures_of_a_split_document_come_in_order_once(
    tokenizer: Tokenizer, make: SimpleNamespace, words: list[str], row_tokens: int
) -> None:
    # Three pictures without a text among them fill a piece that teaches nothing.
    words = [word for n, word in enumerate(words) if n < 2 or not all("<" in one for one in words[n - 2 : n + 1])]
    row = document(words, tokenizer, make)
    assert keys(fit_row(row, row_tokens, "split")) == keys([row])


@settings(deadline=None)
@given(system=st.booleans(), turns=TURNS, row_tokens=st.integers(2 * SLOTS, 80))
def test_a_split_conversation_loses_no_target_and_repeats_none(
    tokenizer: Tokenizer,
    make: SimpleNamespace,
    system: bool,
    turns: list[tuple[str, list[str]]],
    row_tokens: int,
) -> None:
    row = conversation([("system", ["be a cat"])] * system + turns, tokenizer, make)
    pieces = fit_row(row, row_tokens, "split")
    check(pieces, row_tokens, tokenizer, make)
    if len(row) > row_tokens:
        assert targets(pieces) == targets([row])
        assert all(piece.loss.any() for piece in pieces)
    assert is_within(keys(pieces), keys([row]))


@settings(deadline=None)
@given(words=PARTS, row_tokens=st.integers(2, 60))
def test_a_cut_row_is_the_beginning_with_whole_pictures(
    tokenizer: Tokenizer, make: SimpleNamespace, words: list[str], row_tokens: int
) -> None:
    row = document(words, tokenizer, make)
    cut = fit_row(row, row_tokens, "cut")
    check(cut, row_tokens, tokenizer, make)
    for one in cut:
        assert row.ids[: len(one)].tolist() == one.ids.tolist()
        assert row.loss[: len(one)].tolist() == one.loss.tolist()
        assert row.positions[: len(one)].tolist() == one.positions.tolist()
        assert keys([row])[: len(one.pictures)] == keys([one])
        assert len(row) <= row_tokens or len(one) > row_tokens - SLOTS
        assert one.sample_id == "s"


@pytest.mark.parametrize("rule", ["drop", "cut", "split"])
def test_a_row_that_fits_stays_as_it_is(tokenizer: Tokenizer, make: SimpleNamespace, rule: str) -> None:
    row = document(["<0>", "a cat"], tokenizer, make)
    assert fit_row(row, len(row), rule) == [row]


def test_a_row_that_is_dropped_leaves_nothing(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    assert fit_row(document(["word " * 9], tokenizer, make), 5, "drop") == []


def test_a_conversation_is_split_before_a_question_and_keeps_what_the_system_says(
    tokenizer: Tokenizer, make: SimpleNamespace
) -> None:
    turns = [("user", ["<0>", "a"]), ("assistant", ["cat"]), ("user", ["a cat"]), ("assistant", ["a"])]
    system = [("system", ["be"])]
    row = conversation([*system, *turns], tokenizer, make)
    first, second = fit_row(row, len(row) - 1, "split")
    assert first.ids.tolist() == conversation([*system, *turns[:2]], tokenizer, make).ids.tolist()
    whole = conversation([*system, *turns[2:]], tokenizer, make)
    for name in ("ids", "loss", "positions", "is_image"):
        assert getattr(second, name).tolist() == getattr(whole, name).tolist()


def test_an_answer_too_long_goes_on_behind_the_mark_and_ends_once(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    row = conversation([("user", ["a"]), ("assistant", ["word " * 60])], tokenizer, make)
    pieces = fit_row(row, 24, "split")
    assert len(pieces) > 2
    assert targets(pieces) == targets([row])
    assert [int((piece.ids == tokenizer.end).sum()) for piece in pieces] == [1] + [0] * (len(pieces) - 2) + [1]
    for piece in pieces[1:]:
        assert piece.ids[:2].tolist() == [tokenizer.bos, tokenizer.assistant]
        assert piece.loss.tolist() == [False, False] + [True] * (len(piece) - 2)
        assert piece.positions[:, 0].tolist() == list(range(len(piece)))


def test_a_picture_goes_with_the_text_behind_it(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    row = document(["a cat", "<0>", "word"], tokenizer, make)
    begins = int(row.is_image.argmax())
    first, second = fit_row(row, begins + SLOTS, "split")
    assert (len(first), first.pictures) == (begins, ())
    assert keys([second]) == keys([row])


def test_a_system_with_pictures_is_not_repeated(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    turns = [("system", ["<1>", "a"]), ("user", ["a"]), ("assistant", ["cat"]), ("user", ["a"]), ("assistant", ["cat"])]
    row = conversation(turns, tokenizer, make)
    first, second = fit_row(row, len(row) - 1, "split")
    assert (len(first.pictures), len(second.pictures)) == (1, 0)
    assert second.ids[:2].tolist() == [tokenizer.bos, tokenizer.user]


def test_a_long_system_gives_way(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    turns = [("system", ["word " * 20]), ("user", ["a"]), ("assistant", ["word " * 40])]
    row = conversation(turns, tokenizer, make)
    pieces = fit_row(row, 50, "split")
    assert targets(pieces) == targets([row])
    assert all(len(piece) <= 50 for piece in pieces)


def test_a_picture_that_fits_into_no_piece_is_the_records_fault(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    row = document(["a cat", "<0>", "word"], tokenizer, make)
    with pytest.raises(BadRecord, match=r"'s' has a picture of 6 slots.*room for 5") as error:
        fit_row(row, SLOTS, "split")
    assert error.value.reason == "picture longer than row_tokens"
    assert len(fit_row(row, SLOTS, "cut")) == 1


def test_a_cut_without_a_target_leaves_nothing(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    assert fit_row(document(["<0>", "a"], tokenizer, make), SLOTS + 1, "cut") == []
    assert fit_row(conversation([("user", ["word " * 9]), ("assistant", ["a"])], tokenizer, make), 6, "cut") == []


def test_a_budget_without_room_is_refused(tokenizer: Tokenizer, make: SimpleNamespace) -> None:
    row = document(["a"], tokenizer, make)
    with pytest.raises(ValueError, match="row_tokens must be at least 2"):
        fit_row(row, 1, "split")
