from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.doctor.figures import histogram, most_frequent, repeats, spread
from data.doctor.packing import measure_packing, window_draws
from data.pack import pack
from data.row_reader import RowReader
from data.sample import parse_sample
from data.shards import open_shards
from data.source import Source
from data.text import sample_row
from data.tokenizer import Tokenizer
from data.window import draws_of_window


@pytest.mark.parametrize("kind", ["few", "many", "tail", "same", "ratio", "none below"])
def test_every_value_stands_in_the_bar_of_its_edges(kind: str) -> None:
    chance = np.random.default_rng(0)
    values = {
        "few": chance.integers(0, 4, 500),
        "many": chance.integers(17, 4000, 5000),
        "tail": np.append(chance.integers(0, 100, 5000), [10**6]),
        "same": np.full(10, 64),
        "ratio": chance.uniform(0.2, 5, 3000),
        "none below": np.array([7]),
    }[kind]
    bars = histogram(values)
    wanted, _ = np.histogram(np.minimum(values, bars.edges[-1] - 1e-7), bins=np.array(bars.edges) - 1e-9)
    assert list(bars.counts) == wanted.tolist()
    assert sum(bars.counts) == len(values)
    assert len(bars.counts) <= 30
    assert bars.goes_on == (values.max() >= bars.edges[-1])


def test_a_spread_has_the_quantiles_of_numpy() -> None:
    values = np.random.default_rng(1).integers(0, 1000, 999)
    found = spread(values)
    assert found is not None
    assert (found.n, found.total, found.least, found.most) == (999, values.sum(), values.min(), values.max())
    assert [found.p5, found.p50, found.p95] == np.sort(values)[[50, 499, 948]].tolist()
    assert spread(values[:0]) is None


def test_repeats_are_those_that_a_dictionary_finds() -> None:
    values = np.random.default_rng(2).integers(0, 300, 500).astype(np.uint64)
    seen: dict[int, list[int]] = {}
    for place, value in enumerate(values.tolist()):
        seen.setdefault(value, []).append(place)
    groups = sorted(places for places in seen.values() if len(places) > 1)
    found = repeats(values, most_groups=7, most_members=2)
    assert found.groups == len(groups)
    assert found.copies == sum(len(places) - 1 for places in groups)
    assert [list(places) for places in found.places] == [places[:2] for places in groups[:7]]
    assert repeats(np.arange(5), 3).copies == 0
    assert repeats(values[:0], 3).copies == 0


def test_the_most_frequent_are_those_of_a_counter() -> None:
    values = np.random.default_rng(3).integers(0, 20, 400)
    wanted = Counter(values.tolist()).most_common(3)
    found = most_frequent(values, 3)
    assert [count for _, count in found] == [count for _, count in wanted]
    assert all(np.flatnonzero(values == values[place])[0] == place for place, _ in found)


def test_packing_is_that_of_pack_window_by_window() -> None:
    lengths = np.random.default_rng(4).integers(5, 700, 300)
    found = measure_packing(np.append(lengths, 5000), row_tokens=1000)
    assert found is not None
    assert (found.usable, found.too_long) == (300, 1)
    turns = np.random.Generator(np.random.Philox(key=0)).permutation(300)
    windows = [lengths[turns[first : first + found.window]] for first in range(0, 300, found.window)]
    whole = [window for window in windows if len(window) == found.window]
    rows = sum(len(pack(window.tolist(), 1000)) for window in whole)
    assert found.waste == pytest.approx(1 - sum(map(sum, whole)) / (rows * 1000))
    assert found.rows_per_epoch == int(np.ceil(lengths.sum() / (1000 * (1 - found.waste))))
    assert measure_packing(np.array([5000]), 1000) is None


@pytest.mark.parametrize("words", [3, 20, 60])
def test_the_window_is_that_of_training(
    words: int, tmp_path: Path, make: SimpleNamespace, tokenizer: Tokenizer
) -> None:
    shards = open_shards(make.write_records(tmp_path, [make.text_record(number, words) for number in range(8)]))
    reader = RowReader([Source("texts", shards)], tokenizer, None, 512, ())
    lengths = [len(sample_row(parse_sample(*shards.read(number)), tokenizer, None)) for number in range(8)]
    assert draws_of_window(reader, [1.0]) == window_draws(sum(lengths) / len(lengths), 512)
