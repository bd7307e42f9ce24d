from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.group_scores import (
    category_scores,
    circular_scores,
    hallusion_scores,
    mme_scores,
    mmstar_scores,
    needle_scores,
    pope_scores,
)


def test_micro_weighs_questions_and_macro_weighs_categories() -> None:
    found = category_scores([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert found == {"micro": 0.75, "macro": 0.5, "by_category": {"a": 1.0, "b": 0.0}}


def test_the_yes_rate_of_pope_is_that_of_the_answers() -> None:
    found = pope_scores(["yes", "yes", "yes", None], ["yes", "no", "no", "yes"])
    assert found == pytest.approx({"accuracy": 0.25, "precision": 1 / 3, "recall": 0.5, "f1": 0.4, "yes_rate": 0.75})


def test_the_mean_f1_of_pope_is_over_its_categories_and_not_over_all_questions() -> None:
    found = pope_scores(
        ["yes", "yes", "no", "no"], ["yes", "yes", "yes", "no"], ["random", "random", "popular", "popular"]
    )
    assert [found["by_category"][name]["f1"] for name in ("random", "popular")] == [1.0, 0.0]
    assert found["mean_f1"] == 0.5
    assert found["f1"] == pytest.approx(0.8)


def test_mme_gives_a_task_points_for_questions_and_for_pictures() -> None:
    tasks = ["color"] * 4 + ["OCR"] * 2 + ["text_translation"] * 2
    found = mme_scores([1, 1, 1, 0, 1, 1, 0, 1], tasks, [1, 1, 2, 2, 1, 1, 3, 3])
    assert found["by_task"]["color"] == {"accuracy": 0.75, "accuracy_plus": 0.5, "score": 125.0}
    assert found["perception"] == 325.0
    assert found["cognition"] == 50.0


def test_a_picture_of_mme_with_one_question_is_an_error() -> None:
    with pytest.raises(ValueError, match="two questions of one picture; task color has 1 for 2"):
        mme_scores([1, 1, 1], ["color"] * 3, [1, 1, 2])


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=5), st.randoms())
def test_circular_evaluation_is_all_or_nothing_in_any_order(groups: list[list[bool]], rng: object) -> None:
    rows = [(1_000_000 * turn + place + 1, hit) for place, hits in enumerate(groups) for turn, hit in enumerate(hits)]
    rng.shuffle(rows)  # type: ignore[attr-defined]
    found = circular_scores([index for index, _ in rows], [hit for _, hit in rows])
    assert found["circular"] == pytest.approx(sum(all(hits) for hits in groups) / len(groups))
    assert found["vanilla"] == pytest.approx(sum(hits[0] for hits in groups) / len(groups))
    assert found["questions"] == len(groups)


def test_a_category_of_circular_evaluation_counts_questions_not_rows() -> None:
    found = circular_scores([1, 1_000_001, 2], [1, 0, 1], {"l2-category": ["x", "ignored", "x"]})
    assert found["l2-category"] == {"x": 0.5}


def test_a_rotation_without_its_question_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"rows \[1000007\] lack the first form, index 7"):
        circular_scores([1, 1_000_007], [1, 1])


def test_hallusionbench_groups_by_question_and_by_figure() -> None:
    rows = [  # hit, category, figure, question
        (1, "VD", "0", "0"),
        (1, "VD", "0", "1"),
        (1, "VD", "1", "0"),
        (0, "VD", "1", "1"),
        (0, "VS", "0", "0"),
        (1, "VS", "1", "0"),
    ]
    hits, categories, figures, questions = (list(column) for column in zip(*rows, strict=True))
    found = hallusion_scores(hits, categories, ["chart"] * 6, ["1"] * 6, figures, questions)  # type: ignore[arg-type]
    assert found == pytest.approx({"aAcc": 4 / 6, "qAcc": 1 / 3, "fAcc": 2 / 3})


def test_mmstar_weighs_its_18_finest_categories_alike() -> None:
    found = mmstar_scores([1, 0, 0, 1], ["math", "math", "math", "logic"], ["a", "a", "b", "c"])
    assert found["average"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["by_category"] == {"math": 0.25, "logic": 1.0}


def test_needles_fall_into_cells_of_length_and_depth() -> None:
    found = needle_scores([1, 0, 0.5, 1], [1000, 1999, 2000, 10], [0, 0.19, 1.0, 0.5], length_bins=(1000, 2000))
    assert found["grid"][0] == [0.5, None]
    assert found["grid"][4] == [None, 0.5]
    assert found["by_length"] == [0.1, 0.1]
    assert found["left_out"] == 1


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=30))
def test_the_macro_mean_is_that_of_the_definition(rows: list[tuple[int, int]]) -> None:
    members = defaultdict(list)
    for score, category in rows:
        members[category].append(score)
    macro = sum(sum(own) / len(own) for own in members.values()) / len(members)
    assert category_scores(*map(list, zip(*rows, strict=True)))["macro"] == pytest.approx(macro)


@pytest.mark.parametrize("call", [lambda: category_scores([], []), lambda: category_scores([1.0], [])])
def test_no_questions_or_uneven_ones_are_errors(call: object) -> None:
    with pytest.raises(ValueError, match=r"not defined|1 scores but 0 groups"):
        call()  # type: ignore[operator]
