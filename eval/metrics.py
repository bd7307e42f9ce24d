"""Scores of one answer, and figures over many. Pure functions on strings; every score lies in [0, 1]."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"\w+(?:'\w+)?")


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words, without punctuation; "t-shirt" is two words, "don't" is one."""
    return tuple(_WORD.findall(text.lower()))


def exact_match(prediction: str, targets: Sequence[str]) -> float:
    """1 if the answer is one of the targets, letter for letter."""
    return float(prediction in list(targets))


def token_f1(prediction: str, target: str) -> float:
    """Harmonic mean of precision and recall over the words both have, counted with repetition (SQuAD, 1606.05250).

    Unlike SQuAD's script the articles count: captions are short, and nothing is taken from them. Without any word on
    either side the two are compared as strings.
    """
    predicted, wanted = words(prediction), words(target)
    if not predicted or not wanted:
        return float(prediction.strip() == target.strip() != "")
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted))


def best_token_f1(prediction: str, targets: Sequence[str]) -> float:
    """Word F1 against the target that fits best."""
    return max(token_f1(prediction, target) for target in targets)


def accuracy(predictions: Sequence[str | None], truths: Sequence[str]) -> float:
    """Share of answers that equal the truth; an unread answer (None) is wrong."""
    if not truths:
        raise ValueError("accuracy of no answers is not defined")
    return sum(p == t for p, t in zip(predictions, truths, strict=True)) / len(truths)


def yes_no_figures(predictions: Sequence[str | None], truths: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 of "yes", and the share of answers that are "yes" (POPE, arXiv 2305.10355).

    An unread answer is neither yes nor no: it costs recall and stays in the yes-rate's denominator. A figure without
    any case (no "yes" given, none true) is 0.
    """
    pairs = [
        (p is not None and p.lower() == "yes", t.lower() == "yes") for p, t in zip(predictions, truths, strict=True)
    ]
    if not pairs:
        raise ValueError("yes/no figures of no answers are not defined")
    hits = sum(said and true for said, true in pairs)
    said, true = sum(said for said, _ in pairs), sum(true for _, true in pairs)
    return {
        "precision": hits / said if said else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": 2 * hits / (said + true) if said + true else 0.0,
        "yes_rate": said / len(pairs),
    }


def exact_figures(predictions: Sequence[str | None], truths: Sequence[str]) -> dict[str, float]:
    """Share of answers equal to the first target, beside a softer score."""
    return {"exact_match": accuracy(predictions, truths)}
