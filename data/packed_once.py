"""The evaluation plan: every usable record once, packed, over any number of ranks, and as many batches on each.

In: a reader. Out: parcels with batches, and their number before the first is read. To know it, the lengths of all records must
be known: each rank reads its share of them (the JSON and the header of pictures; no pixels), in its workers, and they are exchanged.
Unlike a plan that pads, no record comes twice: a rank that has fewer rows takes some of them apart. Only where it has no record
left to give does it get a batch of two tokens without a label, which adds nothing to any loss.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils.data import get_worker_info

from data.batch import Batch, join
from data.order import Draw
from data.pack import pack, split_rows
from data.row_reader import Parcel, PlannedRow, RowReader
from data.text import token_row
from data.workers import Workers

WINDOW = 2048  # records packed together: neighbours in their shards, so that a row reads from few of them
FEW = 2000  # records that are looked through faster than workers start
Items = Int[np.ndarray, "items 3"]  # of each row: number of the record, part of it, tokens
Exchange = Callable[[Any], Sequence[Any]]  # this rank's value -> those of all ranks, by rank


class PackedOnce:
    """The share of one rank.

    Args:
        reader: of the sources.
        rank: of this process.
        world: number of processes; all must have the same sources.
        exchange: how ranks tell each other what they found; without it each looks through all records by itself.
        num_workers: processes that look through the records.

    Raises:
        ValueError: no record can be used.
    """

    def __init__(
        self, reader: RowReader, rank: int, world: int, exchange: Exchange | None = None, num_workers: int = 0
    ) -> None:
        self._reader = reader
        self._ends = np.cumsum([len(source.shards) for source in reader.sources])
        self.account: list[Parcel] = []  # what the look through the records found
        mine = range(int(self._ends[-1])) if exchange is None else range(rank, int(self._ends[-1]), world)
        here = self._look(mine, num_workers)
        # Errors travel too: the others would wait for a rank that has gone.
        found = [here] if exchange is None else exchange(here)
        if errors := [error for _, error in found if error is not None]:
            raise ValueError(errors[0])
        items = np.concatenate([items for items, _ in found])
        items = items[np.lexsort((items[:, 1], items[:, 0]))]
        if not len(items):
            raise ValueError(f"0 usable records in {', '.join(source.name for source in reader.sources)}")
        shares = [_rows(items[other::world], reader.row_tokens) for other in range(world)]
        # A rank with one batch more than the others would wait for them for ever in the first collective call.
        num_rows = max(map(len, shares))
        self._items, self.rows = items[rank::world], shares[rank]
        split_rows(self.rows, min(num_rows, len(self._items)))
        self.rows += [[] for _ in range(num_rows - len(self.rows))]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Parcel]:
        worker = get_worker_info()
        try:
            for row in self.rows[worker.id :: worker.num_workers] if worker else self.rows:
                planned = [
                    PlannedRow(self._draw(n), part, tokens, None) for n, part, tokens in self._items[row].tolist()
                ]
                yield self._reader.parcel(self._reader.batch(planned) or self._nothing())
        except (ValueError, OSError) as error:
            yield self._reader.parcel(None, str(error))

    def _look(self, numbers: Sequence[int], num_workers: int) -> tuple[Items, str | None]:
        found = [np.zeros((0, 3), dtype=np.int64)]
        for items, parcel in Workers(_Lengths(self, numbers), num_workers if len(numbers) > FEW else 0):
            self.account.append(parcel)
            if parcel.error is not None:
                return found[0], parcel.error
            found.append(items)
        return np.concatenate(found), None

    def _draw(self, number: int) -> Draw:
        source = int(np.searchsorted(self._ends, number, side="right"))
        return Draw(source, number - (int(self._ends[source - 1]) if source else 0), 0)

    def _nothing(self) -> Batch:
        tokenizer = self._reader.tokenizer
        return join([token_row([tokenizer.bos, tokenizer.end], 0)], [[]])


class _Lengths:
    """The lengths of some records, each worker's part in one piece."""

    def __init__(self, plan: PackedOnce, numbers: Sequence[int]) -> None:
        self._plan, self._numbers = plan, numbers

    def __iter__(self) -> Iterator[tuple[Items, Parcel]]:
        worker, reader = get_worker_info(), self._plan._reader
        items = []
        try:
            for number in self._numbers[worker.id :: worker.num_workers] if worker else self._numbers:
                items += [(number, row.part, row.length) for row in reader.plan(self._plan._draw(number))]
        except (ValueError, OSError) as error:
            yield np.zeros((0, 3), dtype=np.int64), reader.parcel(None, str(error))
            return
        yield np.array(items, dtype=np.int64).reshape(-1, 3), reader.parcel(None)


def _rows(items: Items, row_tokens: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for start in range(0, len(items), WINDOW):
        packed = pack(items[start : start + WINDOW, 2].tolist(), row_tokens)
        rows += [[start + item for item in row] for row in sorted(packed)]
    return rows
