import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import accuracy, best_token_f1, exact_match, token_f1, words, yes_no_figures

texts = st.text(alphabet="ab c.'T", max_size=12)


def token_f1_by_loop(prediction: str, target: str) -> float:
    """Cross off words one by one; then precision, recall and their harmonic mean as in a textbook."""
    left = list(words(target))
    hits = 0
    for word in words(prediction):
        if word in left:
            left.remove(word)
            hits += 1
    if hits == 0:
        return 0.0
    precision, recall = hits / len(words(prediction)), hits / len(words(target))
    return 2 * precision * recall / (precision + recall)


@given(texts, texts)
def test_token_f1_is_the_textbook_formula(prediction: str, target: str) -> None:
    if words(prediction) and words(target):
        assert token_f1(prediction, target) == pytest.approx(token_f1_by_loop(prediction, target))


@given(texts, texts)
def test_token_f1_is_symmetric_and_between_0_and_1(one: str, other: str) -> None:
    assert 0 <= token_f1(one, other) == token_f1(other, one) <= 1


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [
        ("A red Car!", "a red car", 1.0),
        ("red", "a red car", 0.5),
        ("red red red", "red", 0.5),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("", "", 0.0),
        ("?", "?", 1.0),
        ("mother-in-law", "mother in law", 1.0),
        ("Eis für Ägypten", "eis FÜR ägypten", 1.0),
    ],
)
def test_token_f1_of_known_pairs(prediction: str, target: str, score: float) -> None:
    assert token_f1(prediction, target) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [
        ("red", "a red car", 2 / 3),
        ("the t-shirt", "tshirt", 1.0),
        ("", "the", 1.0),
        ("", "cat", 0.0),
        ("no", "yes", 0.0),
    ],
)
def test_squad_leaves_articles_and_marks_out(prediction: str, target: str, score: float) -> None:
    assert token_f1(prediction, target, variant="squad") == pytest.approx(score)


def test_the_best_target_counts() -> None:
    assert best_token_f1("red car", ["dog", "red car", "car"]) == 1.0


def test_an_exact_match_is_letter_for_letter() -> None:
    assert [exact_match(text, ["Yes", "Y"]) for text in ("Yes", "Y", "yes", "")] == [1.0, 1.0, 0.0, 0.0]


def test_an_unread_answer_is_wrong() -> None:
    assert accuracy(["a", None, "b"], ["a", "b", "a"]) == pytest.approx(1 / 3)


def test_yes_no_figures_follow_the_confusion_table() -> None:
    said = ["yes"] * 3 + ["no"] * 2 + [None]
    true = ["yes", "yes", "no", "yes", "no", "yes"]
    figures = yes_no_figures(said, true)
    assert figures == pytest.approx({"precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "yes_rate": 3 / 6})


def test_yes_no_figures_of_a_model_that_never_says_yes_are_0() -> None:
    figures = yes_no_figures(["no", "no"], ["yes", "no"])
    assert figures == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "yes_rate": 0.0}
