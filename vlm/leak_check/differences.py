"""Where two traces part, and where a gradient crosses from one record into another.

In: traces. Out: the largest difference, and the first station, in the order of the forward pass, that shows it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.leak_check.trace import Trace


@dataclass(frozen=True)
class Difference:
    """The largest difference of all stations, relative to what stands there; and the first that is not allowed."""

    largest: float = 0.0
    station: str | None = None
    record: int = 0  # of the first trace
    amount: float = 0.0  # there
    words: str = ""  # of a shape that differs


def compare(
    one: Trace,
    other: Trace,
    pairs: Sequence[tuple[int, int]],
    allowed: float,
    before: Sequence[int] | None = None,
) -> Difference:
    """Compare records of one trace with records of another, station by station.

    Args:
        pairs: (record of `one`, record of `other`).
        allowed: more than this is a difference.
        before: only the first so many tokens of each pair's record, and what is closed by then.
    """
    largest, first = 0.0, None
    for name, station in one.stations.items():
        if name not in other.stations:
            continue
        scale = scale_of(station.tensor)
        for turn, (here, there) in enumerate(pairs):
            mine, theirs = station.rows(here), other.stations[name].rows(there)
            if before is not None:
                limit = _limit(one, name, here, before[turn]), _limit(other, name, there, before[turn])
                mine, theirs = mine[: limit[0]], theirs[: limit[1]]
            words, amount = "", relative(mine, theirs, scale)
            if mine.shape != theirs.shape:
                words, amount = f"{len(mine)} rows of it instead of {len(theirs)}", float("inf")
            largest = max(largest, amount)
            if amount > allowed and first is None:
                first = (name, here, amount, words)
    return Difference(largest) if first is None else Difference(largest, *first)


def _limit(trace: Trace, name: str, record: int, tokens: int) -> int:
    """Rows of a station that are known by a record's token number `tokens`."""
    station = trace.stations[name]
    if station.lengths == trace.batch.lengths:
        return tokens
    mine = trace.tokens_of(record)
    here = slice(mine.start, mine.start + tokens)
    if name == "connector":
        return int(trace.batch.is_image[here].sum())
    if name == "encoder":  # the grids of the crops are not the slots; the connector's station follows
        return 0
    closes = trace.stations["backbone.chunker: boundaries"].tensor
    return int(closes[here].sum())


def scale_of(whole: Tensor) -> float:
    """The largest number of a tensor, if that is above 1."""
    return max(1.0, float(whole.detach().abs().max())) if whole.is_floating_point() and whole.numel() else 1.0


def relative(one: Tensor, other: Tensor, scale: float) -> float:
    """The largest difference of two tensors of one shape, relative to the scale; infinite where one is no number."""
    if one.shape != other.shape or not one.numel():
        return 0.0
    if not one.is_floating_point():
        return float((one != other).any())
    apart = float((one.detach() - other.detach()).abs().max())
    return apart / scale if apart == apart and scale == scale else float("inf")


def crossing(trace: Trace, target: Tensor, allowed_rows: dict[str, Tensor]) -> tuple[float, str | None]:
    """The largest gradient of `target` outside the rows that may have one, and the station behind which it begins.

    Args:
        target: a number made of one record's vectors.
        allowed_rows: for each station True where a gradient may be.

    Returns:
        The size, and the first station, walking back from the target, before which the gradient leaves those rows.
    """
    names = [name for name, station in trace.stations.items() if station.tensor.requires_grad and name in allowed_rows]
    grads = torch.autograd.grad(
        target, [trace.stations[name].tensor for name in names], retain_graph=True, allow_unused=True
    )
    largest, behind = 0.0, None
    for index in reversed(range(len(names))):
        grad = grads[index]
        if grad is None:
            continue
        outside = outside_of(grad, allowed_rows[names[index]])
        if outside > 0 and behind is None:
            behind = names[index + 1] if index + 1 < len(names) else names[index]
        largest = max(largest, outside)
    return largest, behind


def outside_of(grad: Tensor, allowed: Tensor) -> float:
    """The largest entry of a gradient in rows where there should be none."""
    rest = grad.detach().flatten(1) if grad.ndim > 1 else grad.detach()[:, None]
    rest = rest[~allowed.to(rest.device)]
    found = float(rest.abs().max()) if rest.numel() else 0.0
    return found if found == found else float("inf")


def rows_of(trace: Trace, records: Iterable[int]) -> dict[str, Tensor]:
    """For each station True in the rows of these records."""
    chosen = set(records)
    return {
        name: torch.cat([torch.full((length,), place in chosen) for place, length in enumerate(station.lengths)])
        for name, station in trace.stations.items()
    }
