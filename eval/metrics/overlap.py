"""Equality and shared words: the scores of one answer that need no rule of a benchmark."""

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
