"""Figures over many answers, from the answers themselves."""

from collections.abc import Sequence


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
