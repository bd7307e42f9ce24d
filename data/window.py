"""How many records are packed together.

In: a reader of the training sources and their weights. Out: the draws of a window, the same on every rank.
The more rows a window fills, the fuller they are. But a lane plans a whole window at the start and after a restart, so there are no
more than it takes to waste 1 % of 4,096 tokens: 80 rows of records of 600 tokens; of shorter ones 48 rows, which they fill evenly.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from data.order import Draw
from data.row_reader import RowReader

MIN_ROWS, MAX_ROWS, MAX_DRAWS = 48, 80, 640
PROBES, PROBED_SHARDS = 64, 4  # records of a source, and the shards they are taken from, to estimate its mean length


def draws_of_window(probe: RowReader, weights: Sequence[float]) -> int:
    """From the mean length of some records.

    Args:
        probe: a reader whose account nobody looks at.
        weights: of its sources.
    """
    tokens = total = 0.0
    for source, weight in enumerate(weights):
        sizes = [len(shard) for shard in probe.sources[source].shards.shards]
        lengths = [sum(row.length for row in probe.plan(Draw(source, index, 0))) for index in probed(sizes)]
        lengths = [length for length in lengths if length]
        if lengths:
            tokens += weight * sum(lengths) / len(lengths)
            total += weight
    draws_per_row = probe.row_tokens * total / tokens if total else 1.0
    num_rows = min(MAX_ROWS, max(MIN_ROWS, MAX_DRAWS / draws_per_row))
    return round(num_rows * draws_per_row)


def probed(sizes: Sequence[int]) -> Iterator[int]:
    """Numbers of records of a few shards: all would be fetched first, where they are remote."""
    starts = np.cumsum([0, *sizes])
    filled = [shard for shard, size in enumerate(sizes) if size]
    shards = filled[:: -(-len(filled) // PROBED_SHARDS)]
    for shard in shards:
        step = -(-sizes[shard] * len(shards) // PROBES)
        yield from range(int(starts[shard]), int(starts[shard + 1]), step)
