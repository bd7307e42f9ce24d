"""Every metric and reader against what the reference code gave for the same input (tests/eval/vectors)."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval import answers, metrics

VECTORS = Path(__file__).parent / "vectors"
OURS: dict[str, Callable[..., Any]] = {
    "normalize_vqa": metrics.normalize_vqa,
    "normalize_textvqa": metrics.normalize_textvqa,
    "vqa_accuracy": metrics.vqa_accuracy,
    "vqa_accuracy_lavis": partial(metrics.vqa_accuracy, variant="lavis"),
    "vqa_accuracy_lmms_eval": partial(metrics.vqa_accuracy, variant="lmms-eval"),
    "textvqa_accuracy": metrics.textvqa_accuracy,
    "gqa_accuracy": metrics.gqa_accuracy,
    "anls_rrc": metrics.anls,
    "anls_strict": partial(metrics.anls, variant="strict"),
    "anls_stvqa": partial(metrics.anls, variant="stvqa"),
    "relaxed_accuracy": metrics.relaxed_accuracy,
    "ocrbench_match": metrics.ocrbench_match,
    "ocrbench_match_lmms_eval": partial(metrics.ocrbench_match, variant="lmms-eval"),
    "box_iou": metrics.box_iou,
    "contains_answer": metrics.contains_answer,
    "parse_choice_mmmu": answers.parse_choice_mmmu,
    "parse_choice_mmmu_lmms_eval": partial(answers.parse_choice_mmmu, variant="lmms-eval"),
    "parse_choice_mmmu_pro": partial(answers.parse_choice_mmmu, variant="pro"),
    "infer_choice": answers.infer_choice,
    "parse_scienceqa": answers.parse_scienceqa,
    "pope": partial(answers.parse_yes_no, rule="pope"),
    "mme": partial(answers.parse_yes_no, rule="mme"),
    "mme-lmms-eval": partial(answers.parse_yes_no, rule="mme-lmms-eval"),
    "vlmevalkit": partial(answers.parse_yes_no, rule="vlmevalkit"),
    "parse_open_mmmu": lambda response: sorted(answers.parse_open_mmmu(response), key=repr),
    "match_open_mmmu": lambda response, right: answers.match_open_mmmu(answers.parse_open_mmmu(response), right),
    "count_accuracy": lambda response, right: metrics.count_accuracy(answers.parse_counts(response), right),
    "normalize_mathvista": answers.normalize_mathvista,
}


def read_vectors() -> dict[str, list[Any]]:
    return {
        name: vectors["cases"]
        for path in sorted(VECTORS.glob("*.json"))
        for name, vectors in json.loads(path.read_text(encoding="utf-8")).items()
    }


def agrees(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(agrees(one, other) for one, other in zip(ours, theirs, strict=True))
    if isinstance(theirs, float):
        return isinstance(ours, float) and (math.isclose(ours, theirs, abs_tol=1e-12) or math.isnan(ours + theirs))
    return type(ours) is type(theirs) and ours == theirs


def test_every_vector_has_a_function_of_ours() -> None:
    assert set(read_vectors()) == set(OURS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_ours_gives_what_the_reference_code_gave(name: str) -> None:
    cases = read_vectors()[name]
    wrong = [
        (given, expected, OURS[name](*given)) for given, expected in cases if not agrees(OURS[name](*given), expected)
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)}; the first: input, reference, ours = {wrong[0]}"
