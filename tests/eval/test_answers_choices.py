import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answers import (
    infer_choice,
    parse_choice_mmmu,
    parse_first_letter,
    parse_leading_letter,
    parse_scienceqa,
    parse_yes_no,
)

CHOICES = {"A": "a red car", "B": "blue", "C": "12", "D": "none of them"}
responses = st.text(st.sampled_from("ABCDZab ().,:*\n12blue"), max_size=40)


@given(responses)
def test_a_reader_gives_a_letter_of_the_choices_or_none(response: str) -> None:
    found = {
        infer_choice(response, CHOICES),
        *(parse_choice_mmmu(response, CHOICES, variant) for variant in ("official", "lmms-eval", "pro")),  # type: ignore[arg-type]
        parse_scienceqa(response, len(CHOICES)),
        parse_leading_letter(response, CHOICES),
        parse_first_letter(response, CHOICES),
    }
    assert found <= {*CHOICES, None}


@given(responses)
def test_reading_does_not_change_the_choices(response: str) -> None:
    choices = dict(CHOICES)
    infer_choice(response, choices)
    assert choices == CHOICES


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("A", "A"),
        ("(B) or (C)", "C"),
        ("A or B", "B"),
        ("it says none of them, I should think", "D"),
        ("blue", None),  # five words or fewer: texts are not looked at
        ("Answer:D", None),
        ("**D**", None),
        ("a", None),
        ("USA today", None),
        ("", None),
    ],
)
def test_mmmu_reads_these_as_its_code_does_and_draws_nothing_at_random(response: str, letter: str | None) -> None:
    assert parse_choice_mmmu(response, CHOICES) == letter


def test_mmmu_variants_differ_where_they_are_known_to() -> None:
    assert [parse_choice_mmmu("USA today", CHOICES, variant) for variant in ("official", "lmms-eval")] == [None, "A"]  # type: ignore[arg-type]
    assert [parse_choice_mmmu("A or B. Answer: A", CHOICES, variant) for variant in ("official", "pro")] == ["A", "A"]  # type: ignore[arg-type]
    assert [parse_choice_mmmu("Answer:D", CHOICES, variant) for variant in ("official", "pro")] == [None, "D"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("A rabbit is shown", "A"),
        ("A rabbit is shown here", None),
        ("a", None),
        ("$A$", None),
        ("The answer is **C**.", "C"),
        ("A and B", None),
        ("It is blue", "B"),
        ("blue or 12", None),
        ("Z", None),
        ("Cannot determine the answer A", None),
        ("blue " * 40, None),
    ],
)
def test_mmbench_reads_these_as_vlmevalkit_does_and_asks_no_model(response: str, letter: str | None) -> None:
    assert infer_choice(response, CHOICES) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B. blue", "B"),
        ("The answer is C.", "C"),
        ("The answer is C", None),
        ("The answer is A. The answer is B.", None),
        ("E", None),
        (" B", None),
        ("B.", None),
    ],
)
def test_scienceqa_reads_these_as_llava_does(response: str, letter: str | None) -> None:
    assert parse_scienceqa(response, 4) == letter


def test_leading_and_first_letters() -> None:
    given = ("B", "B. blue", " B.", "b", "blue", "The answer is B", "")
    assert [parse_leading_letter(text, CHOICES) for text in given] == ["B", "B", "B", None, None, None, None]
    assert [parse_first_letter(text, CHOICES) for text in given] == ["B", "B", "B", "B", "B", None, None]


@pytest.mark.parametrize(
    ("response", "pope", "mme", "kit"),
    [
        ("Yes.", "yes", "yes", "yes"),
        ("NO", "yes", "no", "no"),
        ("No!", "yes", "no", "no"),
        ("It is not.", "no", "other", "other"),
        ("know", "yes", "no", "other"),
        ("  yes", "yes", "other", "yes"),
        ("yes and no", "no", "yes", "other"),
        ("", "yes", "other", "other"),
    ],
)
def test_the_rules_for_yes_and_no_differ_as_their_benchmarks_do(response: str, pope: str, mme: str, kit: str) -> None:
    rules = ("pope", "mme", "vlmevalkit")
    assert [parse_yes_no(response, rule=rule) for rule in rules] == [pope, mme, kit]  # type: ignore[arg-type]


@given(st.text(max_size=20), st.sampled_from(["pope", "mme", "mme-lmms-eval", "pope-lmms-eval", "vlmevalkit"]))
def test_every_rule_says_yes_no_or_other(response: str, rule: str) -> None:
    assert parse_yes_no(response, rule=rule) in ("yes", "no", "other")  # type: ignore[arg-type]
