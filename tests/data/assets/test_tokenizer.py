"""The committed tokenizer loses nothing."""

from functools import cache

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from data.assets.build.tokenizer import VOCABULARY
from data.assets.pieces import ASSETS
from data.tokenizer import SPECIAL_TOKENS


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ASSETS / "tokenizer/tokenizer.json"))


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    # A special token's name inside the text is the caller's business: data.text encodes around it.
    if not any(token in text for token in SPECIAL_TOKENS):
        assert tokenizer().decode(tokenizer().encode(text).ids, skip_special_tokens=False) == text


def test_control_characters_scripts_and_emoji_come_back() -> None:
    for text in (
        "",
        " ",
        "\x00\x01\r\n\t",
        "  two  spaces ",
        "एक लाल सेब",
        "赤いリンゴ",
        "👩‍🌾\ufe0f",
        "\u2028\u00a0\ufeff",
    ):
        assert tokenizer().decode(tokenizer().encode(text).ids, skip_special_tokens=False) == text


def test_the_vocabulary_has_4096_tokens_with_all_bytes() -> None:
    vocabulary = tokenizer().get_vocab()
    assert len(vocabulary) == VOCABULARY == 4096
    assert sorted(vocabulary.values()) == list(range(4096))
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(vocabulary)
    assert len(pre_tokenizers.ByteLevel.alphabet()) == 256


def test_special_tokens_have_the_first_ids() -> None:
    assert [tokenizer().token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))


def test_common_answers_are_short() -> None:
    assert all(len(tokenizer().encode(word).ids) == 1 for word in ("yes", "no", "left", "1", "5", "top"))
