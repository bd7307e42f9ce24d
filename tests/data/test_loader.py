import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.batch import Batch
from data.image import ImageLayout, ImageSpec
from data.loader import TrainLoader
from data.module import DataModule, SourceConfig
from data.order import Cursor

pytestmark = pytest.mark.long

Build = Callable[..., TrainLoader]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> dict[str, str]:
    root = tmp_path_factory.mktemp("shards")
    return {
        "text": make.write_records(root / "text", [make.text_record(i, 3 + i % 9) for i in range(90)]),
        "pictures": make.write_records(root / "pictures", [make.picture_record(i) for i in range(50)]),
    }


@pytest.fixture
def build(
    folders: dict[str, str], tokenizer_file: Path, layout: ImageLayout, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Build]:
    loaders: list[TrainLoader] = []

    def build(rank: int = 0, world: int = 1, **settings: Any) -> TrainLoader:
        module = make_module(folders, tokenizer_file, layout, **settings)
        monkeypatch.setattr("data.module.place_among_ranks", lambda trainer: (rank, world))
        loaders.append(module.train_dataloader())
        return loaders[-1]

    yield build
    for loader in loaders:
        loader.close()


def make_module(
    folders: dict[str, str],
    tokenizer_file: Path,
    own_layout: ImageLayout,
    names: tuple[str, ...] = ("text", "pictures"),
    weights: tuple[float, ...] = (0.6, 0.4),
    **settings: Any,
) -> DataModule:
    train = [SourceConfig(folders[name.rstrip("2")], weight, name) for name, weight in zip(names, weights, strict=True)]
    defaults: dict[str, Any] = {"row_tokens": 120, "num_workers": 0, "augmentations": 2}
    defaults |= {"steps_per_epoch": 12, "lanes": 6, "tokenizer": str(tokenizer_file), "layout": own_layout}
    return DataModule(train=list(train), **(defaults | settings))


def take(loader: TrainLoader, number: int) -> list[Batch]:
    batches: list[Batch] = []
    while len(batches) < number:
        batches += itertools.islice(loader, number - len(batches))
    return batches


def contents(batches: list[Batch]) -> list[tuple[object, ...]]:
    return [(b.sample_ids, b.ids.tolist(), b.image_keys, [image.tolist() for image in b.images]) for b in batches]


def test_every_batch_is_sound_and_within_the_budget(build: Build) -> None:
    for batch in take(build(), 40):
        batch.check()
        assert len(batch.ids) <= 120
        assert batch.wait_s > 0


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_order(build: Build, num_workers: int) -> None:
    loader = build(num_workers=num_workers)
    assert contents(take(loader, 30)) == contents(take(build(), 30))


def test_workers_are_lowered_to_a_number_that_shares_the_lanes(build: Build) -> None:
    assert [build(num_workers=number).num_workers for number in range(8)] == [0, 1, 2, 3, 3, 3, 6, 6]
    assert [build(1, 3, num_workers=number).num_workers for number in range(4)] == [0, 1, 2, 2]


def test_the_stream_runs_on_over_the_end_of_an_epoch(build: Build) -> None:
    loader = build()
    assert len(loader) == len(list(loader)) == 12
    assert contents(take(loader, 20)) == contents(take(build(steps_per_epoch=100), 32)[12:])


@pytest.mark.parametrize("world", [1, 2])
def test_closing_does_not_lose_the_place(build: Build, world: int) -> None:
    loader = build(1, world, num_workers=1) if world > 1 else build(num_workers=1)
    before, state = contents(take(loader, 5)), loader.state_dict()
    loader.close()
    assert loader.state_dict() == state
    assert before + contents(take(loader, 6)) == contents(take(build(1, world) if world > 1 else build(), 11))


@pytest.mark.parametrize("stop", [1, 12, 19])
def test_a_restart_goes_on_where_the_trainer_was(build: Build, stop: int) -> None:
    whole = contents(take(build(), 32))
    first = build(num_workers=2)
    before = contents(take(first, stop))
    second = build(num_workers=1)
    second.load_state_dict(first.state_dict())
    assert before + contents(take(second, 32 - stop)) == whole


@pytest.mark.parametrize(("world", "then"), [(1, 3), (2, 1), (3, 2)])
def test_the_number_of_processes_does_not_change_the_order(
    build: Build, monkeypatch: pytest.MonkeyPatch, world: int, then: int
) -> None:
    def rows(loaders: list[TrainLoader], steps: int) -> list[tuple[object, ...]]:
        ranks = [contents(take(loader, steps)) for loader in loaders]
        return [batch for step in zip(*ranks, strict=True) for batch in step]

    whole = contents(take(build(), 36))
    loaders = [build(rank, world) for rank in range(world)]
    before = rows(loaders, 12 // world)
    everyone = [(r.batches_given, [(c.lane, c.window, c.bin) for c in r._cursors.values()]) for r in loaders]
    gathered = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: world,
        all_gather_object=lambda ranks, here: ranks.__setitem__(slice(None), everyone),
    )
    monkeypatch.setattr("data.loader.distributed", gathered)
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)
    after = [build(rank, then) for rank in range(then)]
    for loader in after:
        loader.load_state_dict(states[0])
    assert before + rows(after, 24 // then) == whole


def test_no_record_is_lost_or_repeated_in_an_epoch(folders: dict[str, str], tokenizer_file: Path) -> None:
    module = DataModule(
        str(tokenizer_file), None, [folders["text"]], row_tokens=100, num_workers=0, lanes=1, steps_per_epoch=1000
    )
    seen: Counter[str] = Counter()
    for batch in module.train_dataloader():
        if batch.cursor.window == 2:
            break
        seen.update(batch.sample_ids)  # one lane: two whole windows, whatever the order of their rows
    assert sum(seen.values()) > 100
    assert set(seen) == {f"text-{i}" for i in range(90)}
    assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"row_tokens": 121}, "row_tokens was 120, is 121"),
        ({"lanes": 12}, "lanes was 6, is 12"),
        ({"augmentations": 1}, r"augmentations was \[2, 2\], is \[1, 1\]"),
        ({"overlong": "split"}, "overlong was drop, is split"),
        ({"weights": (0.6, 0.3)}, r"weights was 0\.6, 0\.4, is 0\.6, 0\.3"),
        ({"tokenizer": "demo"}, "tokenizer was [0-9a-f]{16}, is [0-9a-f]{16}"),
        ({"layout": ImageLayout(ImageSpec(size_px=32, mean=(0.5,) * 3, std=(0.5,) * 3), (3, 3))}, "image layout was"),
        ({"names": ("text", "text2")}, r"source 1 was 50 records, [0-9a-f]{16}, is 90 records, [0-9a-f]{16}"),
        ({"names": ("text",), "weights": (1.0,)}, "source 1 was 50 records, [0-9a-f]{16}, is absent"),
    ],
    ids=str,
)
def test_a_place_in_other_data_is_refused_by_what_differs(build: Build, settings: dict[str, Any], told: str) -> None:
    state = build().state_dict()
    with pytest.raises(ValueError, match=told):
        build(**settings).load_state_dict(state)


def test_the_state_is_small_whatever_has_been_read(
    folders: dict[str, str], tokenizer_file: Path, layout: ImageLayout
) -> None:
    shares = [SourceConfig(folders["text"], 1 / 7, f"a source with a long name, number {i}") for i in range(20)]
    module = DataModule(str(tokenizer_file), layout, list(shares), row_tokens=100, num_workers=0, lanes=24)
    loader = module.train_dataloader()
    take(loader, 24)
    loader._cursors = {lane: Cursor(lane, 123_456, 56) for lane in range(24)}
    loader.batches_given = 10**9
    assert len(json.dumps(loader.state_dict())) < 4096
    assert loader.state_dict() == json.loads(json.dumps(loader.state_dict()))


def test_lanes_that_cannot_be_shared_are_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"6 lanes cannot be shared by 5 processes; set data\.lanes"):
        build(0, 5)


def test_ranks_that_disagree_cannot_save(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = build(0, 2)
    gathered = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        all_gather_object=lambda ranks, here: ranks.__setitem__(slice(None), [(3, []), (4, [])]),
    )
    monkeypatch.setattr("data.loader.distributed", gathered)
    with pytest.raises(ValueError, match="different numbers"):
        loader.state_dict()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_sees_every_record_once(
    folders: dict[str, str], tokenizer_file: Path, layout: ImageLayout, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    steps = set()
    for rank in range(world):
        module = make_module(folders, tokenizer_file, layout, val=[folders["text"], folders["pictures"]], num_workers=1)
        monkeypatch.setattr("data.module.place_among_ranks", lambda trainer, rank=rank: (rank, world))
        loaders = module.val_dataloader()
        assert [name for name, _ in module.val_mixture] == [folders["text"], folders["pictures"]]
        batches: list[Batch] = []
        for loader in loaders:
            for _ in range(2 if rank == 0 else 1):
                ones = list(loader)
            assert len(ones) == len(loader)
            batches += ones
        steps.add(len(batches))
        for batch in batches:
            batch.check()
            seen.update(batch.sample_ids)
            assert all(key.endswith("-0") for key in batch.image_keys)
    assert len(steps) == 1
    assert seen == {f"text-{i}": 1 for i in range(90)} | {f"picture-{i}": 1 for i in range(50)}
