"""Equality and shared words: the scores of one answer that need no rule of a benchmark."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

_WORD = re.compile(r"\w+(?:'\w+)?")


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words, without punctuation; "t-shirt" is two words, "don't" is one."""
    return tuple(_WORD.findall(text.lower()))


def exact_match(prediction: str, targets: Sequence[str]) -> float:
    """1 if the answer is one of the targets, letter for letter."""
    return float(prediction in list(targets))


def token_f1(prediction: str, target: str, variant: Literal["words", "squad"] = "words") -> float:
    """Harmonic mean of precision and recall over the words both have, counted with repetition (SQuAD, 1606.05250).

    Args:
        prediction: the model's answer.
        target: the right one.
        variant: words: the articles count, unlike in SQuAD's script, and marks part words: captions are short, and
            nothing is taken from them. Without any word on either side the two are compared as strings, and two empty
            ones are 0. squad: as SQuAD 2.0's script; articles go, marks are deleted, two empty ones are 1.
    """
    if variant == "squad":
        predicted, wanted = (_squad_words(text) for text in (prediction, target))
        if not predicted or not wanted:
            return float(predicted == wanted)
    elif variant == "words":
        predicted, wanted = words(prediction), words(target)
        if not predicted or not wanted:
            return float(prediction.strip() == target.strip() != "")
    else:
        raise ValueError(f"unknown variant {variant!r} of word F1; known: words, squad")
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted))


@lru_cache(maxsize=65536)
def _squad_words(text: str) -> tuple[str, ...]:
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return tuple(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def best_token_f1(prediction: str, targets: Sequence[str]) -> float:
    """Word F1 against the target that fits best."""
    return max(token_f1(prediction, target) for target in targets)
