import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import normalize_textvqa, normalize_vqa, textvqa_accuracy, vqa_accuracy
from eval.metrics.contractions import CONTRACTIONS

words = st.text(st.sampled_from("ab AZ.,'?-\n19é"), max_size=12)


def accuracy_by_subsets(prediction: str, answers: list[str]) -> float:
    """The definition: mean over all sets of nine people of min(1, people that agree / 3)."""
    subsets = list(itertools.combinations(range(len(answers)), len(answers) - 1))
    agreeing = [sum(answers[i] == prediction for i in subset) for subset in subsets]
    return sum(min(1, number / 3) for number in agreeing) / len(subsets)


@pytest.mark.parametrize(("matches", "score"), list(enumerate([0.0, 0.3, 0.6, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])))
def test_each_number_of_matches_among_ten_has_its_official_score(matches: int, score: float) -> None:
    answers = ["cat"] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy("cat", answers) == pytest.approx(score)
    assert textvqa_accuracy("cat", answers) == pytest.approx(score)


@given(words, st.lists(words, min_size=1, max_size=10))
def test_vqa_accuracy_is_its_definition(prediction: str, answers: list[str]) -> None:
    seen = [normalize_textvqa(answer) for answer in answers]
    assert textvqa_accuracy(prediction, answers) == pytest.approx(
        accuracy_by_subsets(normalize_textvqa(prediction), seen)
    )
    seen = [normalize_vqa(answer) for answer in answers]
    assert vqa_accuracy(prediction, answers, variant="lmms-eval") == pytest.approx(
        accuracy_by_subsets(normalize_vqa(prediction), seen)
    )


@given(words, st.lists(words, min_size=1, max_size=10))
def test_the_order_of_the_people_does_not_matter(prediction: str, answers: list[str]) -> None:
    assert vqa_accuracy(prediction, answers) == pytest.approx(vqa_accuracy(prediction, answers[::-1]))


def test_identical_answers_are_compared_as_they_are() -> None:
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1.0
    assert vqa_accuracy("Yes", ["yes"] * 10, variant="lmms-eval") == 1.0
    assert vqa_accuracy("Yes", ["yes"] * 10, variant="lavis") == 1.0
    assert textvqa_accuracy("Yes", ["yes"] * 10) == 1.0


def test_one_person_alone_has_nobody_to_agree_with() -> None:
    assert vqa_accuracy("cat", ["cat"]) == 0.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The two dogs.", "2 dogs"),
        ("1,000", "1000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("t-shirt - x-ray", "tshirt xray"),
        ("3.5.", "3.5"),
        ("dont", "don't"),
        ("don’t", "don’t"),
        ("somebody'd", "somebodyd"),
        ("12:30 50% $5 #1", "12:30 50% $5 #1"),
        ("None", "0"),
        ("a an the", ""),
        ("", ""),
        ("." * 40, "." * 8),
    ],
)
def test_the_official_normalisation_of_known_texts(text: str, normal: str) -> None:
    assert normalize_vqa(text) == normal


def test_textvqa_takes_commas_and_question_marks_first_and_parts_the_genitive() -> None:
    assert normalize_textvqa("Joe's, the bar?") == "joe 's bar"
    assert normalize_vqa("Joe's, the bar?") == "joe's bar"
    assert normalize_textvqa("red,blue") == "redblue"


def test_the_list_of_contractions_is_the_official_one_in_number_and_spelling() -> None:
    assert len(CONTRACTIONS) == 120
    wrong = {k: v for k, v in CONTRACTIONS.items() if k.replace("'", "") != v.replace("'", "")}
    assert not wrong
    assert [CONTRACTIONS[word] for word in ("yall'd've", "'ow'sat", "weve")] == ["y'all'd've", "'ow's'at", "we've"]


@pytest.mark.parametrize("accuracy", [vqa_accuracy, textvqa_accuracy])
def test_no_answers_is_an_error(accuracy: object) -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        accuracy("cat", [])  # type: ignore[operator]
