"""What a score is worth: the scores of guessing, and of one constant answer, from the right answers alone."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from eval.plan import Asked

Metric = Callable[[str, Sequence[str]], float]
SEED = 20260117
DRAWS = 50  # answers of other questions drawn for each question, fewer for more than 6,000 questions
METRIC_CALLS = 300_000  # bounds the draws, and the search for the best constant answer: about 2 s of word F1


def chance(asked: Sequence[Asked], metric: Metric) -> float:
    """The expected score without knowledge.

    Choose: a choice drawn at random. Generate: the right answer of another question, drawn at random (fixed seed, 50
    draws for each question, 300,000 in all); 0 where there is no other question.
    """
    if asked[0].choices:
        return sum(1 / len(question.choices) for question in asked) / len(asked)
    if len(asked) == 1:
        return 0.0
    rng = random.Random(SEED)
    draws = max(1, min(DRAWS, METRIC_CALLS // len(asked)))
    score = lru_cache(maxsize=METRIC_CALLS)(metric)  # letters, numbers, yes and no come again and again
    total = 0.0
    for place, question in enumerate(asked):
        others = [other + (other >= place) for other in rng.choices(range(len(asked) - 1), k=draws)]
        total += sum(score(asked[other].targets[0], question.targets) for other in others) / draws
    return total / len(asked)


def majority(asked: Sequence[Asked], metric: Metric) -> float:
    """The score of the best constant answer.

    Choose, with the same choices for all: the most frequent right answer. Choose, with choices that differ: the most
    frequent place of the right answer, since no answer is open to all. Generate: the right answer that scores best when
    given to every question (the most frequent ones are tried where there are too many to try all).
    """
    if asked[0].choices:
        same = len({frozenset(question.choices) for question in asked}) == 1
        right = Counter[object](question.targets[0] if same else question.answer for question in asked)
        return max(right.values()) / len(asked)
    frequent = Counter(target for question in asked for target in dict.fromkeys(question.targets))
    kinds = Counter(question.targets for question in asked)
    tried = [answer for answer, _ in frequent.most_common(max(1, METRIC_CALLS // len(kinds)))]
    best = max(sum(metric(answer, targets) * count for targets, count in kinds.items()) for answer in tried)
    return best / len(asked)
