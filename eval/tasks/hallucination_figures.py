"""The figures that POPE, MME and CHAIR are reported by, as sums over independent draws (eval/headline.py)."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from eval.group_scores import MME_COGNITION, MME_PERCEPTION
from eval.headline import Headline
from eval.object_scores import named_objects
from eval.outcome import Outcome
from eval.truth import Truth

_KINDS = ("random", "popular", "adversarial")
_TASKS = (*MME_PERCEPTION, *MME_COGNITION)


def _pope_sums(found: Sequence[Outcome]) -> dict[str, list[float]]:
    """By picture, for each category: yes said rightly, yes said, yes true."""
    rows: dict[str, list[float]] = defaultdict(lambda: [0.0] * (3 * len(_KINDS)))
    for one in found:
        place = 3 * _KINDS.index(one.category or "")
        said, true = one.answer == "yes", one.targets[0] == "yes"
        rows[one.group][place] += said and true
        rows[one.group][place + 1] += said
        rows[one.group][place + 2] += true
    return rows


def _mean_f1(total: Float64[np.ndarray, " k"]) -> float:
    """Of the categories that have a yes, said or true."""
    hits, said, true = total.reshape(-1, 3).T
    there = said + true > 0
    return float((2 * hits[there] / (said + true)[there]).mean()) if there.any() else 0.0


def _mme_sums(found: Sequence[Outcome]) -> dict[str, list[float]]:
    """By picture, for each task: questions right, pictures with both right, questions, pictures."""
    rows: dict[str, list[float]] = {}
    right: Counter[str] = Counter()
    for one in found:
        rows.setdefault(one.group, [0.0] * (4 * len(_TASKS)))
        right[one.group] += one.score == 1
        place = 4 * _TASKS.index(one.category or "")
        row = rows[one.group]
        row[place] += one.score
        row[place + 2] += 1
        row[place + 1 : place + 4 : 2] = [float(right[one.group] == 2), 1.0]
    return rows


def _mme_share(total: Float64[np.ndarray, " k"]) -> float:
    """Points of all tasks that are there, as a share of 2800."""
    hits, both, questions, pictures = total.reshape(-1, 4).T
    there = questions > 0
    return float((hits[there] / questions[there] + both[there] / pictures[there]).sum()) / (2 * len(_TASKS))


def whole_pairs(found: Sequence[Outcome]) -> list[Outcome]:
    """Those whose picture has both questions: one may have failed."""
    counts = Counter(one.truth.group for one in found)
    return [one for one in found if counts[one.truth.group] == 2]


def _mentions(answer: str | None, truth: Truth) -> tuple[int, int]:
    """How many objects of COCO a caption names, and how many of them are not there."""
    named = named_objects(answer or "")
    there = set(truth.meta["objects"]) | {name for text in truth.answers for name in named_objects(text)}
    return len(named), sum(name not in there for name in named)


def chair_of_caption(answer: str, truth: Truth) -> float:
    """1 - the share of hallucinated mentions; 1 for a caption that names no object."""
    named, wrong = _mentions(answer, truth)
    return 1 - wrong / named if named else 1.0


def _chair_sums(found: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
    rows = {one.group: _mentions(one.answer, one.truth) for one in found}
    return {name: (float(wrong), float(named)) for name, (named, wrong) in rows.items()}


def _chair(total: Float64[np.ndarray, " k"]) -> float:
    return 1 - float(total[0] / total[1]) if total[1] else 1.0


POPE_F1 = Headline("mean F1 over random, popular, adversarial", _pope_sums, _mean_f1)
MME_TOTAL = Headline("perception + cognition", _mme_sums, _mme_share, scale=200.0 * len(_TASKS))
CHAIR = Headline("1 - CHAIR_i, higher is better", _chair_sums, _chair)
