"""Scores by what a question's `meta` says it is, where that is more than one kind of kind.

In: outcomes. Out: {kind: {"score", "n"}} as `by_category` has it. A question that is of several kinds counts in each.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.outcome import Outcome


def by_meta(**fields: str) -> Callable[[Sequence[Outcome]], Mapping[str, Any]]:
    """A task's summary: name of the figure = the field of `meta`, a text or a list of texts."""

    def summary(found: Sequence[Outcome]) -> dict[str, Any]:
        return {name: _scores(found, field) for name, field in fields.items()}

    return summary


def _scores(found: Sequence[Outcome], field: str) -> dict[str, dict[str, Any]]:
    members: dict[str, list[float]] = defaultdict(list)
    for one in found:
        said = one.truth.meta.get(field) or ()
        for kind in [said] if isinstance(said, str) else said:
            members[str(kind)].append(one.score)
    return {
        kind: {"score": sum(members[kind]) / len(members[kind]), "n": len(members[kind])} for kind in sorted(members)
    }
