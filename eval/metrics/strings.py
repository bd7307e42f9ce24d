"""Scores of one answer by comparing strings: GQA, ANLS, OCRBench, relaxed accuracy, MM-NIAH, math equality."""

import re
import string
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from eval.metrics.edit_distance import edit_distance
from eval.metrics.vqa import normalize_niah

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def gqa_accuracy(prediction: str, answer: str) -> float:
    """1 if both are the same but for case and ASCII punctuation, as lmms-eval compares (exact_match with both ignored).

    Punctuation is deleted, not replaced: "t-shirt" equals "tshirt". Blanks count. The official script of GQA
    (arXiv 1902.09506) compares the strings as they are, LLaVA's lowers them and drops a final period.
    """
    return float(_bare(prediction) == _bare(answer))


def _bare(text: str) -> str:
    # The harness compares in numpy arrays: "İ" in lower case is one sign longer, and what no longer fits is cut off.
    return text.lower()[: len(text)].translate(_NO_PUNCTUATION).rstrip("\0")


def anls(
    prediction: str,
    answers: Sequence[str],
    threshold: float | int = 0.5,
    variant: Literal["rrc", "strict", "stvqa"] = "rrc",
) -> float:
    """Average normalised Levenshtein similarity of one question (arXiv 1907.00490); the best answer counts.

    Args:
        prediction: the model's answer.
        answers: those that are right.
        threshold: rrc, stvqa: a similarity below it is 0. strict: a distance from it on gives 0.
        variant: rrc: the script of the DocVQA and InfographicVQA board; both sides lower-case with single blanks, but
            divided by the longer of the *raw* lengths, so blanks around an answer help it; exactly 0.5 stays.
            strict: the paper's rule, also pix2struct's and that of the package `anls` 0.0.2; lengths of what is
            compared; exactly 0.5 is 0. stvqa: as M4C scores ST-VQA; lower case, stripped, blanks inside stay;
            exactly 0.5 stays.

    Two empty strings are equal: 1. (The stvqa code would divide by zero there.)

    Raises:
        ValueError: no answers, or an unknown variant.
    """
    if not answers:
        raise ValueError("ANLS needs at least one answer, got none")
    if variant == "stvqa":
        said, right = prediction.lower().strip(), [answer.lower().strip() for answer in answers]
        sizes = [max(len(said), len(one)) for one in right]
    elif variant in ("rrc", "strict"):
        said, right = _single_blanks(prediction), [_single_blanks(answer) for answer in answers]
        # The official lengths are those of the upper-case strings: "ß" counts two.
        measured = (prediction, answers) if variant == "rrc" else (said, right)
        size = len(measured[0].upper())
        sizes = [max(size, len(one.upper())) for one in measured[1]]
    else:
        raise ValueError(f"unknown variant {variant!r} of ANLS; known: rrc, strict, stvqa")
    best = 0.0
    for one, size in zip(right, sizes, strict=True):
        # The lengths alone bound the distance from below; most unrelated pairs need no more.
        if not size or not _passes(abs(len(said) - len(one)) / size, threshold, variant):
            best = best if size else 1.0
            continue
        far = edit_distance(said, one) / size
        if _passes(far, threshold, variant):
            best = max(best, 1 - far)
    return best


def _passes(distance: float, threshold: float, variant: str) -> bool:
    return distance < threshold if variant == "strict" else 1 - distance >= threshold


@lru_cache(maxsize=262144)
def _single_blanks(text: str) -> str:
    return " ".join(text.strip().lower().split())


def ocrbench_match(
    prediction: str,
    answers: Sequence[str] | str,
    dataset: str,
    variant: Literal["official", "lmms-eval"] = "official",
) -> float:
    """1 if any right answer is part of the prediction (OCRBench, arXiv 2305.07895).

    Args:
        prediction: the model's answer.
        answers: one, or several of which any will do.
        dataset: the record's `dataset_name`; "HME100k" (formulas) keeps case and ignores blanks, all others ignore case.
        variant: lmms-eval 0.7.3 also takes full-width forms for their ASCII ones, except in HME100k.
    """
    right = [answers] if isinstance(answers, str) else list(answers)
    if variant not in ("official", "lmms-eval"):
        raise ValueError(f"unknown variant {variant!r} of the OCRBench match; known: official, lmms-eval")
    if dataset == "HME100k":
        said = _one_line(prediction).replace(" ", "")
        return float(any(_one_line(one).replace(" ", "") in said for one in right))
    if variant == "lmms-eval":
        prediction = prediction.strip().translate(_FULL_WIDTH)
        right = [one.translate(_FULL_WIDTH) for one in right]
    said = _one_line(prediction.lower())
    return float(any(_one_line(one.lower()) in said for one in right))


def _one_line(text: str) -> str:
    return text.strip().replace("\n", " ")


def relaxed_accuracy(prediction: str, target: str, tolerance: float | int = 0.05) -> float:
    """1 if two numbers differ by at most `tolerance` of the target, or two texts but by case (ChartQA, 2203.10244).

    A number is what Python's `float` reads, with "%" after it a hundredth of that; so "1,000" is none, and "14%" is
    not "14". A target of 0 is compared as text. Blanks around a text count: strip before, where the answer may have
    some. The rule is that of pix2struct and Qwen-VL, which all harnesses took over.
    """
    said, true = _number(prediction), _number(target)
    if said is not None and true:
        return float(abs(said - true) / abs(true) <= tolerance)
    return float(prediction.lower() == target.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def contains_answer(prediction: str, answers: Sequence[str] | str) -> float:
    """1 if a right answer stands in the prediction as whole words, both normalised (needle retrieval of MM-NIAH).

    As MM-NIAH's script, number words up to ninety become digits there too, and articles go (arXiv 2406.07230).
    """
    right = [answers] if isinstance(answers, str) else list(answers)
    said = normalize_niah(prediction)
    return float(any(re.search(rf"\b{re.escape(normalize_niah(one))}\b", said) is not None for one in right))


def count_accuracy(counts: Sequence[object] | None, right: Sequence[object]) -> float:
    """Share of places at which a list of counts agrees, over the places of the right list (counting of MM-NIAH).

    Soft: three of four counts right is 0.75. An unread answer (None) is 0. VLMEvalKit adds a whole point for any
    agreement at all.
    """
    if not right:
        raise ValueError("count accuracy needs at least one right count, got an empty list")
    if counts is None:
        return 0.0
    return sum(said == true for said, true in zip(counts, right, strict=False)) / len(right)


def math_equal(prediction: str, target: str) -> float:
    """1 if both mean the same number, set or expression, by the package math-verify: "1/2", "0.5" and "\\frac{1}{2}".

    What it cannot read equals nothing. Each comparison may take 5 s, where the main thread asks; elsewhere the package
    knows no limit.

    Raises:
        ValueError: math-verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise ValueError(
            f"math equality needs the package math-verify ({error}); pip install 'conceptvlm[eval]'"
        ) from error
    limit: Any = (
        5 if threading.current_thread() is threading.main_thread() else None
    )  # its alarm signal needs the main one
    right, said = (parse(text, parsing_timeout=limit) for text in (target, prediction))
    return float(verify(right, said, timeout_seconds=limit))
