"""What is put side by side does the same work: the same records, the same tokens, the same pixels."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.shards import open_shards
from data.window import MAX_DRAWS, MAX_ROWS
from vlm.bench.data import (
    OURS,
    PILLOW,
    STREAM,
    TORCHVISION,
    DataResults,
    Pass,
    Rate,
    measure_data,
    pipelines_of,
    rates,
    readers_of,
    take,
    take_in_turn,
)
from vlm.bench.data_packing import ITEMS, WINDOW, Packing, fill_in_order, lengths_of_notes, pack_windows
from vlm.bench.data_peers import PEERS, installed_peers
from vlm.bench.data_pictures import made_shards, noise, picture
from vlm.bench.data_pipelines import ROW_TOKENS, PackedRow, decoded_by_pillow, ours, webdataset
from vlm.bench.data_resume import Resumed, measure_resume
from vlm.commands.bench_data import tables

PICTURES = 12
# webdataset leaves its files open, and torchvision warns of a later release.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
Vlm = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_shards(tmp_path_factory.mktemp("bench"), PICTURES)


def by_record(rows: Iterator[PackedRow]) -> dict[str, tuple[list[int], torch.Tensor]]:
    """Tokens and pixels of each record."""
    found = {}
    for row in rows:
        for name, ids, image in zip(row.sample_ids, row.ids.split(list(row.lengths)), row.images, strict=True):
            found[name] = (ids.tolist(), image)
    return found


def test_pictures_are_as_large_as_those_of_web_collections() -> None:
    made = [picture(number) for number in range(8)]
    assert 55_000 < np.mean([len(data) for data in made]) < 75_000
    assert made == [picture(number) for number in range(8)]
    pixels = noise(np.random.default_rng(0), 64, 48)
    assert pixels.shape == (64, 48, 3)
    assert 20 < pixels.std() < 50


def test_shards_are_made_once_and_read_by_webdataset_too(shards: Path) -> None:
    import webdataset as wds

    before = (shards / "0000.tar").stat()
    assert made_shards(shards.parent, PICTURES) == shards
    assert (shards / "0000.tar").stat() == before
    assert len(open_shards(shards)) == PICTURES
    read = list(wds.WebDataset([str(shards / "0000.tar")], shardshuffle=False))
    assert len({one["__key__"] for one in read}) == PICTURES
    assert not list(shards.parent.glob(".*"))


@pytest.mark.parametrize("decode", ["pil", "torchvision"])
def test_webdataset_sees_each_record_once(shards: Path, decode: str) -> None:
    names = [name for row in webdataset(shards, decode) for name in row.sample_ids]
    assert len(names) == len(set(names)) == PICTURES


def test_all_pipelines_make_the_same_tokens_and_the_same_pixels(shards: Path) -> None:
    mine = by_record(ours(shards, records=100))
    opened = open_shards(shards)
    stored = {}
    for index in range(PICTURES):
        _, members = opened.read(index)
        stored[json.loads(members["json"])["id"]] = members["jpg"]
    assert mine.keys() == stored.keys()
    for decode in ("pil", "torchvision"):
        theirs = by_record(webdataset(shards, decode))
        assert theirs.keys() == mine.keys()
        for name, (ids, image) in theirs.items():
            assert ids == mine[name][0]
            assert image.shape == mine[name][1].shape == (3, 224, 224)
            assert image.dtype == mine[name][1].dtype == torch.uint8
            apart = (image.float() - mine[name][1].float()).abs()
            assert apart.mean() < 0.5
            assert apart.max() <= 3  # rounding of two steps of resizing
    name = next(iter(stored))
    by_hand = Image.fromarray(decoded_by_pillow(stored[name]).permute(1, 2, 0).numpy())
    assert by_hand.size == (224, 224)


def test_rows_hold_whole_records_within_the_budget(shards: Path) -> None:
    for pipeline in (partial(ours, shards, records=100), partial(webdataset, shards, "torchvision")):
        for row in pipeline():
            assert len(row.ids) == sum(row.lengths) <= ROW_TOKENS
            assert len(row.sample_ids) == len(row.images) == len(row.lengths)


def test_readers_give_each_record_once_in_the_order_that_they_say(shards: Path) -> None:
    keys = {name: [row.sample_ids[0] for row in reader()] for name, reader in readers_of(shards).items()}
    in_order = sorted(keys["ours, in order"])
    assert keys["webdataset, in order"] == keys["ours, in order"] == in_order
    assert keys["ours, at random"] != in_order
    assert sorted(keys["ours, at random"]) == in_order


def test_a_pass_counts_what_it_took(shards: Path) -> None:
    found = take(partial(webdataset, shards, "torchvision"))
    assert (found.records, found.images) == (PICTURES, PICTURES)
    assert found.tokens > PICTURES * 14 * 14
    assert found.cpu_s > 0
    told: list[int] = []
    passes = take_in_turn({"one": partial(webdataset, shards, "torchvision")}, 2, lambda: told.append(1))
    assert len(passes["one"]) == 2
    assert len(told) == 3  # one is not measured


def test_rates_are_medians_of_the_rounds_and_ratios_are_taken_within_a_round() -> None:
    def passed(*seconds: float) -> list[Pass]:
        return [Pass(100, 100, 1000, 1, cpu_s, 2 * cpu_s) for cpu_s in seconds]

    slow, fast = rates({"peer": passed(1.0, 2.0, 4.0), "mine": passed(0.5, 1.0, 1.0)}, ["peer"])
    assert (slow.records_per_s, slow.over) == (50, {"peer": 1})
    assert (fast.records_per_s, fast.over) == (100, {"peer": 2})
    assert fast.wall_records_per_s == 50
    assert fast.waste == pytest.approx(1 - 1000 / ROW_TOKENS)
    assert fast.spread == 1


def test_lengths_are_those_of_the_mixture() -> None:
    lengths = lengths_of_notes()
    assert len(lengths) == ITEMS
    assert 580 < np.mean(lengths) < 630
    assert 1600 < np.percentile(lengths, 95) < 1850
    assert 1 <= min(lengths) <= max(lengths) <= ROW_TOKENS
    draws_per_row = ROW_TOKENS / 615
    assert round(min(MAX_ROWS, MAX_DRAWS / draws_per_row) * draws_per_row) == WINDOW


def test_packing_leaves_little_empty_and_loses_nothing() -> None:
    lengths = lengths_of_notes()
    windows = pack_windows(lengths)
    packed = [place for rows in windows[:1] for row in rows for place in row]
    assert sorted(packed) == list(range(WINDOW))
    rows = sum(len(window) for window in windows)
    assert 1 - sum(lengths) / (rows * ROW_TOKENS) <= 0.02
    assert 1 - sum(lengths) / (fill_in_order(lengths) * ROW_TOKENS) > 0.1
    assert fill_in_order([3000, 1000, 96, 1]) == 2


def test_peers_have_a_row_or_a_reason(shards: Path) -> None:
    found, missing = installed_peers()
    assert len(found) + len(missing) == len(PEERS)
    assert all(any(name in text for text in (*found, *missing)) for name in PEERS)
    pipelines, _ = pipelines_of(shards)
    assert list(pipelines)[:3] == [PILLOW, OURS, TORCHVISION]


def test_tables_name_every_figure_and_every_missing_peer() -> None:
    rate = Rate("ours", 100.0, 100.0, 25_000.0, 0.012, 40.0, 0.1, {PILLOW: 1.5, TORCHVISION: 1.01})
    packing = Packing("windows", 0.0081, 400_000.0)
    found = DataResults(
        600,
        66_000.0,
        380_000.0,
        [rate],
        [replace(rate, over={STREAM: 6.4})],
        [packing],
        [Resumed(25_000, 2, 0.21, 0.83, 1_234)],
        596.0,
        1700.0,
        ["x is not installed"],
    )
    text = "\n".join(tables(found))
    for words in (
        "66 KB and 0.38 megapixels",
        "25,000",
        "1.2%",
        "1.50",
        "0.81%",
        "400,000",
        "no row: x is not installed",
        "25,000 records",
        "1,234 bytes",
        "0.83 s",
    ):
        assert words in text


@pytest.mark.slow
def test_going_on_is_measured_with_and_without_workers_and_leaves_nothing(tmp_path: Path) -> None:
    found = measure_resume(tmp_path, 1, records=60)
    assert [one.workers for one in found] == [0, 1, 2]
    assert all(0 < one.open_s < one.first_batch_s for one in found)
    assert all(500 < one.state_bytes < 4096 for one in found)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_measurement_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    found = measure_data(tmp_path, 6, 1, 60)
    assert [one.name for one in found.pipelines][:3] == [PILLOW, OURS, TORCHVISION]
    assert [one.name for one in found.reading] == ["webdataset, in order", "ours, in order", "ours, at random"]
    assert all(one.records_per_s > 0 for one in (*found.pipelines, *found.reading))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pictures", "0"], "--pictures must be at least 1, got 0"),
        (["--rounds", "-1"], "--rounds must be at least 1, got -1"),
        (["--out", "/proc/nowhere"], "cannot write in /proc/nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlm.cli import main

    assert main(["bench", "data", *arguments]) == 2
    assert words in capsys.readouterr().err
