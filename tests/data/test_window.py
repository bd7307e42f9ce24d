import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.pack import pack
from data.row_reader import RowReader
from data.shards import open_shards
from data.source import Source
from data.tokenizer import Tokenizer
from data.window import draws_of_window, probed


@pytest.mark.parametrize(("mean", "spread"), [(615, 0.876), (150, 0.6), (40, 0.5), (1500, 0.5)])
def test_a_window_wastes_less_than_two_per_cent_of_a_row_whatever_the_records(
    tmp_path: Path, tokenizer: Tokenizer, make: SimpleNamespace, mean: int, spread: float
) -> None:
    chance = np.random.default_rng(0)
    lengths = chance.lognormal(np.log(mean) - spread**2 / 2, spread, 14_000).clip(4, 4000).astype(int).tolist()
    records = [
        (str(i), {"json": json.dumps({"content": "x " * (length // 2 - 1)}).encode()})
        for i, length in enumerate(lengths[:200])
    ]
    reader = RowReader([Source("s", open_shards(make.write_records(tmp_path / "s", records)))], tokenizer, None, 4096)
    window = draws_of_window(reader, [1.0])
    windows = [lengths[start : start + window] for start in range(0, len(lengths) - window + 1, window)]
    assert len(windows) >= 2
    rows = [len(pack(one, 4096)) for one in windows]
    assert 1 - sum(map(sum, windows)) / (4096 * sum(rows)) < (0.02 if mean < 1000 else 0.05)


def test_few_shards_are_read_to_estimate_lengths() -> None:
    sizes = [100] * 50 + [0, 7]
    found = list(probed(sizes))
    assert 40 <= len(found) <= 64
    assert len({index // 100 for index in found}) <= 4
    assert list(probed([5])) == [0, 1, 2, 3, 4]
    assert len(list(probed([10_000]))) == 64
