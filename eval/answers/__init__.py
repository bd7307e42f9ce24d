"""From what a model wrote to the answer that is scored; None where no answer can be read. Nothing is ever guessed.

Scoring an unread answer as a random option, as some harnesses do, hides a broken prompt: here it is wrong, and counted.
docs/metrics.md names the rule and the source of each reader.
"""

from eval.answers.boxes import CONVENTIONS, parse_boxes
from eval.answers.choices import (
    infer_choice,
    parse_choice_mmmu,
    parse_first_letter,
    parse_leading_letter,
    parse_scienceqa,
)
from eval.answers.lines import first_line, parse_yes_no, whole_response, yes_no
from eval.answers.mathvista import extract_mathvista, normalize_mathvista
from eval.answers.open_answers import match_open_mmmu, parse_counts, parse_open_mmmu

__all__ = [
    "CONVENTIONS",
    "extract_mathvista",
    "first_line",
    "infer_choice",
    "match_open_mmmu",
    "normalize_mathvista",
    "parse_boxes",
    "parse_choice_mmmu",
    "parse_counts",
    "parse_first_letter",
    "parse_leading_letter",
    "parse_open_mmmu",
    "parse_scienceqa",
    "parse_yes_no",
    "whole_response",
    "yes_no",
]
