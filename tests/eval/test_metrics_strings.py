import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import (
    anls,
    box_iou,
    count_accuracy,
    edit_distance,
    gqa_accuracy,
    math_equal,
    ocrbench_match,
    relaxed_accuracy,
)

texts = st.text(st.sampled_from("abc AB.é\n"), max_size=70)
boxes = st.lists(st.integers(0, 20), min_size=4, max_size=4).map(
    lambda n: [min(n[0], n[2]), min(n[1], n[3]), max(n[0], n[2]), max(n[1], n[3])]
)


def distance_by_table(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        above, row = row, [i]
        for j, second in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != second)))
    return row[-1]


def iou_by_cells(a: list[int], b: list[int]) -> float:
    cells = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)]
    together = cells[0] | cells[1]
    return len(cells[0] & cells[1]) / len(together) if together else 0.0


@given(texts, texts)
def test_the_edit_distance_is_that_of_the_table(one: str, other: str) -> None:
    assert edit_distance(one, other) == distance_by_table(one, other)


@given(texts, st.lists(texts, min_size=1, max_size=4), st.sampled_from(["rrc", "strict", "stvqa"]))
def test_anls_is_in_0_and_1_and_never_less_for_more_answers(prediction: str, answers: list[str], variant: str) -> None:
    score = anls(prediction, answers, variant=variant)  # type: ignore[arg-type]
    assert score == 0 or 0.5 <= score <= 1
    assert score >= max(anls(prediction, [one], variant=variant) for one in answers)  # type: ignore[arg-type]


def test_a_similarity_of_exactly_one_half_stays_but_for_the_strict_rule() -> None:
    assert [anls("ab", ["ac"], variant=variant) for variant in ("rrc", "stvqa", "strict")] == [0.5, 0.5, 0.0]  # type: ignore[arg-type]


def test_blanks_around_an_answer_help_it_on_the_board_alone() -> None:
    assert [anls(" a", ["b"], variant=variant) for variant in ("rrc", "stvqa", "strict")] == [0.5, 0.0, 0.0]  # type: ignore[arg-type]


def test_two_empty_strings_are_equal() -> None:
    assert [anls("", [""], variant=variant) for variant in ("rrc", "stvqa", "strict")] == [1.0, 1.0, 1.0]  # type: ignore[arg-type]


@given(boxes, boxes)
def test_iou_counts_cells(a: list[int], b: list[int]) -> None:
    assert box_iou(a, b) == pytest.approx(iou_by_cells(a, b)) == box_iou(b, a)


def test_a_box_of_three_numbers_is_an_error() -> None:
    with pytest.raises(ValueError, match="four numbers"):
        box_iou([0, 0, 1], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [
        ("1950", "2019", 1.0),
        ("1,000", "1000", 0.0),
        ("14%", "14", 0.0),
        ("14%", "0.14", 1.0),
        ("0.0", "0", 0.0),
        ("0", "0", 1.0),
        ("Yes", "yes", 1.0),
        ("Yes.", "yes", 0.0),
        ("nan", "nan", 0.0),
        ("5%%", "0.05", 1.0),
    ],
)
def test_relaxed_accuracy_of_known_pairs(prediction: str, target: str, score: float) -> None:
    assert relaxed_accuracy(prediction, target) == score


def test_gqa_deletes_punctuation_and_keeps_blanks() -> None:
    assert [gqa_accuracy(text, "tshirt") for text in ("T-shirt.", "t shirt", " tshirt")] == [1.0, 0.0, 0.0]


def test_formulas_of_ocrbench_keep_case_and_lose_blanks() -> None:
    assert ocrbench_match("x + Y", ["x+Y"], "HME100k") == 1.0
    assert ocrbench_match("x + y", ["x+Y"], "HME100k") == 0.0
    assert ocrbench_match("the WORD is", "word", "IIIT5K") == 1.0


def test_counts_are_right_place_by_place() -> None:
    assert count_accuracy([1, 2, 4], [1, 2, 3, 4]) == 0.5
    assert count_accuracy(None, [1]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [("0.5", "1/2", 1.0), (r"$\frac{1}{2}$", "0.5", 1.0), ("x", "y", 0.0), ("", "1", 0.0), ("$2x+x$", "$3x$", 1.0)],
)
def test_math_is_equal_by_meaning(prediction: str, target: str, score: float) -> None:
    assert math_equal(prediction, target) == score


def test_math_equality_works_in_a_thread() -> None:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(math_equal("0.5", "1/2")))
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: anls("a", []), "at least one answer"),
        (lambda: anls("a", ["a"], variant="best"), "'best'"),  # type: ignore[arg-type]
        (lambda: ocrbench_match("a", ["a"], "x", variant="best"), "'best'"),  # type: ignore[arg-type]
        (lambda: count_accuracy([1], []), "empty list"),
    ],
)
def test_what_has_no_score_is_an_error(call: object, named: str) -> None:
    with pytest.raises(Exception, match=named):
        call()  # type: ignore[operator]
