"""Scores of one answer, and figures over many. Pure functions on strings; every score lies in [0, 1].

docs/metrics.md names the rule and the source of each. Group scores (MME's pairs, circular evaluation, ...) are in
eval/group_scores.py, captions in eval/caption_scores.py, CHAIR in eval/object_scores.py.
"""

from eval.metrics.boxes import box_iou
from eval.metrics.edit_distance import edit_distance
from eval.metrics.figures import accuracy, exact_figures, yes_no_figures
from eval.metrics.overlap import best_token_f1, exact_match, token_f1, words
from eval.metrics.strings import (
    anls,
    contains_answer,
    count_accuracy,
    gqa_accuracy,
    math_equal,
    ocrbench_match,
    relaxed_accuracy,
)
from eval.metrics.vqa import normalize_niah, normalize_textvqa, normalize_vqa, textvqa_accuracy, vqa_accuracy

__all__ = [
    "accuracy",
    "anls",
    "best_token_f1",
    "box_iou",
    "contains_answer",
    "count_accuracy",
    "edit_distance",
    "exact_figures",
    "exact_match",
    "gqa_accuracy",
    "math_equal",
    "normalize_niah",
    "normalize_textvqa",
    "normalize_vqa",
    "ocrbench_match",
    "relaxed_accuracy",
    "textvqa_accuracy",
    "token_f1",
    "vqa_accuracy",
    "words",
    "yes_no_figures",
]
