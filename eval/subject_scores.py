"""Scores by subject, by kind of text and by box: MMMU, MMMU-Pro, OCRBench, RefCOCO."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from eval.group_scores import category_scores
from eval.metrics.boxes import box_iou

MMMU_DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
OCRBENCH_RECOGNITION = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)
OCRBENCH_OTHERS = (
    "Scene Text-centric VQA",
    "Doc-oriented VQA",
    "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition",
)


def mmmu_subject(question_id: str) -> str:
    """The subject in an id of MMMU: "validation_Art_Theory_12" is of Art_Theory.

    Raises:
        ValueError: the id is not of this form.
    """
    subject = question_id.partition("_")[2].rpartition("_")[0]
    if not subject or not question_id.rpartition("_")[2].isdigit():
        raise ValueError(f"an id of MMMU is SPLIT_SUBJECT_NUMBER, got {question_id!r}")
    return subject


def mmmu_scores(hits: Sequence[float | int], subjects: Sequence[str]) -> dict[str, Any]:
    """MMMU (arXiv 2311.16502): "overall" over all questions, and by subject and discipline, over their questions.

    On the validation split each subject has 30 questions, so the mean over subjects is the same.
    """
    found = category_scores(hits, subjects)
    unknown = set(found["by_category"]) - {subject for names in MMMU_DISCIPLINES.values() for subject in names}
    if unknown:
        raise ValueError(f"not subjects of MMMU: {', '.join(sorted(unknown))}")
    by_discipline: dict[str, float] = {}
    for name, members in MMMU_DISCIPLINES.items():
        own = [hit for hit, subject in zip(hits, subjects, strict=True) if subject in members]
        if own:
            by_discipline[name] = fmean(own)
    return {"overall": found["micro"], "by_subject": found["by_category"], "by_discipline": by_discipline}


def mmmu_pro_scores(standard: Sequence[float | int], vision: Sequence[float | int]) -> dict[str, float]:
    """MMMU-Pro (arXiv 2409.02813): the mean of the setting with ten options and of that with the question in the picture."""
    if not standard or not vision:
        raise ValueError("MMMU-Pro is the mean of two settings; one of them has no questions")
    return {"standard": fmean(standard), "vision": fmean(vision), "overall": (fmean(standard) + fmean(vision)) / 2}


def ocrbench_scores(hits: Sequence[float | int], kinds: Sequence[str]) -> dict[str, Any]:
    """OCRBench (arXiv 2305.07895): right answers of 1,000, by kind, the six kinds of recognition also together.

    "share" divides by the questions that are there; the harness always divides by 1,000, also for a part of them.

    Raises:
        ValueError: a kind that OCRBench does not have.
    """
    known = (*OCRBENCH_RECOGNITION, *OCRBENCH_OTHERS)
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise ValueError(f"not kinds of OCRBench: {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
    if not hits:
        raise ValueError("an OCRBench score of no questions is not defined")
    right: dict[str, float] = defaultdict(float)
    for hit, kind in zip(hits, kinds, strict=True):
        right[kind] += hit
    recognition = sum(right[kind] for kind in OCRBENCH_RECOGNITION)
    return {
        "Text Recognition": recognition,
        **{kind: right[kind] for kind in OCRBENCH_OTHERS},
        "Final Score": recognition + sum(right[kind] for kind in OCRBENCH_OTHERS),
        "share": fmean(hits),
        "by_kind": {kind: right[kind] for kind in known if kind in kinds},
    }


def refcoco_scores(
    predicted: Sequence[Sequence[float | int] | None],
    truths: Sequence[Sequence[float | int]],
    threshold: float | int = 0.5,
) -> dict[str, float]:
    """Share of expressions whose box overlaps the right one by IoU >= threshold (RefCOCO/+/g), and the mean IoU.

    Args:
        predicted: one box for each expression, or None where none could be read; that is wrong, with IoU 0.
        truths: the right boxes; both as left, top, right, bottom in one unit.
    """
    if not truths:
        raise ValueError("accuracy of no boxes is not defined")
    overlaps = [0.0 if box is None else box_iou(box, true) for box, true in zip(predicted, truths, strict=True)]
    return {"accuracy": fmean(overlap >= threshold for overlap in overlaps), "mean_iou": fmean(overlaps)}
