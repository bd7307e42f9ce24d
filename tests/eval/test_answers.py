import pytest

from eval.answers import first_line, yes_no


@pytest.mark.parametrize(
    ("text", "answer"),
    [("cat", "cat"), (" a cat \nand more", "a cat"), ("\n\n dog", "dog"), ("", None), (" \n\t\n", None)],
)
def test_the_first_line_that_holds_anything_is_the_answer(text: str, answer: str | None) -> None:
    assert first_line(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("**No**, it is not", "no"),
        ("\nyes.", "yes"),
        ("know", None),
        ("Nothing", None),
        ("It is: yes", None),
        ("...", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read_from_the_first_word_and_never_guessed(text: str, answer: str | None) -> None:
    assert yes_no(text) == answer
