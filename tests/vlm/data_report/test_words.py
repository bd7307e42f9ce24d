import pytest

from vlm.data_report.words import lines_of, plain, short, size_of


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain é 漢字 🙂", "plain é 漢字 🙂"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\tc\nd", "a\\rb\\tc\\nd"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202eresu", "user\\u202eresu"),
        ("\u2066x\u2069\u200e\ufeff", "\\u2066x\\u2069\\u200e\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("\udcff", "\\udcff"),
        ("👩\u200d🚀 a\u00a0b\u3000c", "👩\u200d🚀 a\u00a0b\u3000c"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_left(text: str, written: str) -> None:
    assert plain(text) == written


def test_a_long_text_is_cut_and_says_so() -> None:
    assert plain("abcdef", 4) == "abc…"
    assert plain("abcd", 4) == "abcd"
    assert len(plain("\x1b" * 100, 10)) == 10
    assert lines_of("one two\nthree\x1b", 5) == ["one ", "two", "three", "\\x1b"]


def test_numbers_are_short() -> None:
    assert [short(value) for value in (12345, 0.374, 1234.5, 0, 2.0, 0.0001234)] == [
        "12,345", "0.374", "1,234", "0", "2", "0.000123",
    ]  # fmt: skip
    assert [size_of(value) for value in (0, 1023, 1024, 5 * 2**40, 2**60)] == [
        "0 bytes", "1,023 bytes", "1.0 KiB", "5.0 TiB", "1,048,576.0 TiB",
    ]  # fmt: skip
