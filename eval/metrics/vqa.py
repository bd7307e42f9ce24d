"""Answers of several people: VQA accuracy as VQAv2 and TextVQA count it.

Sources: GT-Vision-Lab/VQA, PythonEvaluationTools (arXiv 1505.00468, 1612.00837); the answer processor of M4C and EvalAI
(facebookresearch/mmf; arXiv 1904.08920) for TextVQA. Their quirks are kept, because scores must be comparable:
"not followed by a digit" is all that the period rule checks, at most 32 periods go, and a mark that touches a space
anywhere is deleted everywhere.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

from eval.metrics.contractions import CONTRACTIONS

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the official code passes re.UNICODE (32) where the count belongs
_UP_TO_NINETEEN = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NIAH_NUMBERS = {word: str(number) for number, word in enumerate(_UP_TO_NINETEEN.split())}
_NUMBERS = {word: digits for word, digits in _NIAH_NUMBERS.items() if int(digits) <= 10} | {"none": "0"}
_NIAH_NUMBERS |= {word: str(10 * tens) for tens, word in enumerate(_TENS.split(), start=2)}
_ARTICLES = frozenset(("a", "an", "the"))


@lru_cache(maxsize=262144)
def normalize_vqa(text: str) -> str:
    """Text as VQAv2 compares it: lower case, few marks, digits for number words, no articles, whole contractions.

    The order is official: new lines and tabs to spaces, strip, marks, then words. Apostrophes, ":", "%", "$", "#" and
    typographic quotes stay.
    """
    return _words(_without_marks(_on_one_line(text)), _NUMBERS)


@lru_cache(maxsize=262144)
def normalize_textvqa(text: str) -> str:
    """Text as TextVQA compares it: commas and question marks go first, "'s" becomes a word; then as `normalize_vqa`."""
    first = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_without_marks(_on_one_line(first)), _NUMBERS)


def normalize_niah(text: str) -> str:
    """Text as MM-NIAH compares it: as `normalize_vqa`, with number words up to ninety, and "none" left as it is."""
    return _words(_without_marks(_on_one_line(text)), _NIAH_NUMBERS)


def vqa_accuracy(
    prediction: str, answers: Sequence[str], variant: Literal["official", "lmms-eval", "lavis"] = "official"
) -> float:
    """VQA accuracy of one question: the mean, over the people, of min(1, matches among the others / 3).

    Args:
        prediction: the model's answer.
        answers: one for each person; ten in VQAv2, where 0, 1, 2, 3, 4 matches give 0, 0.3, 0.6, 0.9, 1.
        variant: official: both sides are normalised unless all answers are identical; then they are compared as they
            are, so that "Yes" is wrong where all ten wrote "yes". lmms-eval: both are always normalised. lavis (also
            Qwen-VL; an earlier official release): the prediction is always normalised, answers that differ lose their
            marks only.

    Raises:
        ValueError: no answers.
    """
    people = [_on_one_line(answer) for answer in answers]
    if variant == "official":
        if len(set(people)) > 1:
            return _leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in people])
        return _leave_one_out(_on_one_line(prediction), people)
    if variant == "lmms-eval":
        return _leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in people])
    if variant == "lavis":
        raw = list(answers)
        seen = [_without_marks(answer) for answer in raw] if len(set(raw)) > 1 else raw
        return _leave_one_out(normalize_vqa(prediction), seen)
    raise ValueError(f"unknown variant {variant!r} of VQA accuracy; known: official, lmms-eval, lavis")


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy with TextVQA's normalisation, which is always applied.

    The official code insists on ten answers; here any number is counted by the same formula.

    Raises:
        ValueError: no answers.
    """
    return _leave_one_out(normalize_textvqa(prediction), [normalize_textvqa(answer) for answer in answers])


def _leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    if not answers:
        raise ValueError("VQA accuracy needs at least one answer, got none")
    same = [answer == prediction for answer in answers]
    matches = sum(same)
    # Summed in the order of the answers, as the official code does: another order can change the last digit.
    return float(sum(min(1.0, (matches - own) / 3) for own in same)) / len(answers)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_marks(text: str) -> str:
    in_number = _DIGIT_COMMA_DIGIT.search(text) is not None
    kept = text
    for mark in _MARKS:
        if mark in kept:
            kept = kept.replace(mark, "" if in_number or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", kept, count=_MOST_PERIODS)


def _words(text: str, numbers: Mapping[str, str]) -> str:
    words = [numbers.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
