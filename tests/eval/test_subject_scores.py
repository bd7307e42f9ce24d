import pytest

from eval.subject_scores import (
    MMMU_DISCIPLINES,
    mmmu_pro_scores,
    mmmu_scores,
    mmmu_subject,
    ocrbench_scores,
    refcoco_scores,
)


def test_mmmu_has_30_subjects_in_six_disciplines() -> None:
    assert len({subject for subjects in MMMU_DISCIPLINES.values() for subject in subjects}) == 30
    assert len(MMMU_DISCIPLINES) == 6


def test_mmmu_counts_questions() -> None:
    found = mmmu_scores([1, 1, 0, 0], ["Art", "Art", "Art_Theory", "Math"])
    assert found["overall"] == 0.5
    assert found["by_discipline"] == pytest.approx({"Art and Design": 2 / 3, "Science": 0.0})


def test_an_unknown_subject_is_an_error() -> None:
    with pytest.raises(ValueError, match="Alchemy"):
        mmmu_scores([1], ["Alchemy"])


def test_the_subject_stands_in_the_id() -> None:
    assert mmmu_subject("validation_Art_Theory_12") == "Art_Theory"
    with pytest.raises(ValueError, match="SPLIT_SUBJECT_NUMBER"):
        mmmu_subject("Art")


def test_mmmu_pro_is_the_mean_of_its_settings() -> None:
    assert mmmu_pro_scores([1, 0], [0, 0, 0, 1])["overall"] == 0.375


def test_ocrbench_adds_right_answers_up() -> None:
    kinds = ["Handwriting Recognition", "Digit String Recognition", "Doc-oriented VQA", "Doc-oriented VQA"]
    found = ocrbench_scores([1, 1, 1, 0], kinds)
    assert (found["Text Recognition"], found["Doc-oriented VQA"], found["Final Score"]) == (2, 1, 3)
    assert found["share"] == 0.75
    assert found["by_kind"] == {"Handwriting Recognition": 1, "Digit String Recognition": 1, "Doc-oriented VQA": 1}


def test_an_expression_is_right_from_an_overlap_of_one_half_on() -> None:
    found = refcoco_scores([[0, 0, 10, 5], [0, 0, 10, 4.9], None], [[0, 0, 10, 10]] * 3)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["mean_iou"] == pytest.approx((0.5 + 0.49) / 3)
