import logging
from pathlib import Path
from types import SimpleNamespace

import jsonargparse
import pytest

from data.image import ImageLayout
from data.module import DataModule, SourceConfig
from data.shards import BadShard, ShardSet, write_shard

pytestmark = pytest.mark.long


def module_of(
    tokenizer_file: Path, layout: ImageLayout | None, *train: SourceConfig | str, **settings: object
) -> DataModule:
    defaults = {"row_tokens": 150, "num_workers": 0, "lanes": 2, "steps_per_epoch": 10}
    return DataModule(str(tokenizer_file), layout, list(train), **(defaults | settings))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_records_are_skipped_counted_and_named(
    tmp_path: Path,
    tokenizer_file: Path,
    layout: ImageLayout,
    make: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    num_workers: int,
) -> None:
    records = [make.picture_record(i) for i in range(30)]
    records[3] = (records[3][0], {**records[3][1], "0.png": make.picture(3)[:-40]})
    records[5] = (records[5][0], {**records[5][1], "json": b"{"})
    records[7] = (records[7][0], {"json": records[7][1]["json"]})
    records[9] = make.text_record(9, 200)
    folder = make.write_records(tmp_path / "s", records)
    module = module_of(tokenizer_file, layout, folder, num_workers=num_workers, steps_per_epoch=40)
    seen = set()
    with caplog.at_level(logging.WARNING):
        for batch in module.train_dataloader():
            batch.check()
            seen |= set(batch.sample_ids)
    module.teardown()
    assert seen == {f"picture-{i}" for i in range(30)} - {f"picture-{i}" for i in (3, 5, 7, 9)}
    kinds = ("corrupt picture", "bad JSON", "missing member", "longer than row_tokens")
    assert module.faults == {(folder, kind): 1 for kind in kinds}
    assert module.fault_keys[folder, "corrupt picture"] == [f"{folder}/000000.tar, key p00003"]
    *shown, summary = (record.getMessage() for record in caplog.records)
    assert len(shown) == 4
    assert all(f"{folder}/000000.tar, key" in line for line in shown)
    assert summary.startswith("records of data.train left out or changed: ")
    for kind in kinds:
        assert f"1 x {kind}" in summary


def test_skipping_a_bad_record_does_not_change_the_rest(
    tmp_path: Path, tokenizer_file: Path, layout: ImageLayout, make: SimpleNamespace
) -> None:
    records = [make.picture_record(i) for i in range(40)]
    good = module_of(tokenizer_file, layout, make.write_records(tmp_path / "good", records))
    records[3] = (records[3][0], {**records[3][1], "0.png": make.picture(3)[:-40]})
    bad = module_of(tokenizer_file, layout, make.write_records(tmp_path / "bad", records))
    for a, b in zip(good.train_dataloader(), bad.train_dataloader(), strict=True):
        assert [name for name in a.sample_ids if name != "picture-3"] == list(b.sample_ids)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_source_that_is_all_bad_is_an_error_in_one_line(
    tmp_path: Path, tokenizer_file: Path, make: SimpleNamespace, num_workers: int
) -> None:
    good = make.write_records(tmp_path / "good", [make.text_record(i) for i in range(50)])
    bad = make.write_records(tmp_path / "bad", [(f"k{i}", {"json": b"["}) for i in range(20)])
    for sources in ([good, bad], [bad]):
        module = module_of(tokenizer_file, None, *sources, num_workers=num_workers)
        with pytest.raises(ValueError, match=r"bad.*none of 20|no usable record") as error:
            list(module.train_dataloader())
        module.teardown()
        assert "\n" not in str(error.value)


def test_a_picture_without_an_encoder_stops_the_run_in_one_line(
    tmp_path: Path, tokenizer_file: Path, make: SimpleNamespace
) -> None:
    folder = make.write_records(tmp_path / "s", [make.picture_record(i) for i in range(3)])
    with pytest.raises(ValueError, match="no image encoder"):
        list(module_of(tokenizer_file, None, folder).train_dataloader())


def test_a_bad_shard_is_an_error_before_training(tmp_path: Path, tokenizer_file: Path, make: SimpleNamespace) -> None:
    write_shard(tmp_path / "a.tar", [make.text_record(0)])
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:-512])
    with pytest.raises(BadShard, match=r"a\.tar"):
        module_of(tokenizer_file, None, str(tmp_path)).setup("fit")


def test_every_distinct_picture_is_listed_once_with_its_copies(
    tmp_path: Path, tokenizer_file: Path, layout: ImageLayout, make: SimpleNamespace
) -> None:
    records = [make.picture_record(i, make.picture(i % 4)) for i in range(10)]
    records.append(("bad", {"json": b"{"}))
    folder = make.write_records(tmp_path / "s", [*records, make.text_record(0)])
    module = module_of(tokenizer_file, layout, folder, val=[folder], augmentations=2)
    copies = [picture.augmentation for picture in module.pictures("train")]
    assert sorted(copies) == [0] * 4 + [1] * 4 + [2] * 4
    assert [picture.augmentation for picture in module.pictures("val")] == [0] * 4
    assert len({picture.feature_key for picture in module.pictures("train")}) == 12


def test_cached_pictures_are_not_decoded(
    tmp_path: Path, tokenizer_file: Path, layout: ImageLayout, make: SimpleNamespace
) -> None:
    folder = make.write_records(tmp_path / "s", [make.picture_record(i) for i in range(20)])
    module = module_of(tokenizer_file, layout, folder, augmentations=1)
    keys = [picture.feature_key for picture in module.pictures("train")]
    module.cached = frozenset(keys[::2])
    for batch in module.train_dataloader():
        batch.check()
        assert [image is None for image in batch.images] == [key in module.cached for key in batch.image_keys]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"row_tokens": 0}, "row_tokens"), ({"num_workers": -1}, "num_workers"), ({"train": []}, "empty")],
)
def test_settings_that_cannot_work_are_refused(tokenizer_file: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataModule(**({"tokenizer": str(tokenizer_file), "layout": None, "train": []} | settings)).train_dataloader()


def test_sources_of_the_same_name_are_refused(tmp_path: Path, tokenizer_file: Path, make: SimpleNamespace) -> None:
    folder = make.write_records(tmp_path / "s", [make.text_record(0)])
    with pytest.raises(ValueError, match="two sources"):
        module_of(tokenizer_file, None, folder, folder).setup()
    with pytest.raises(ValueError, match="weight"):
        module_of(tokenizer_file, None, SourceConfig(folder, 0.0))


def test_the_command_line_can_build_it(tokenizer_file: Path) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DataModule, "data")
    train = '[{"path": "demo:train/emoji", "weight": 0.5}, "other/folder"]'
    config = parser.parse_args([f"--data.tokenizer={tokenizer_file}", "--data.layout=null", f"--data.train={train}"])
    module = parser.instantiate(config).data
    assert module._configs["train"] == [SourceConfig("demo:train/emoji", 0.5), SourceConfig("other/folder")]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_disk_ends_the_run_in_one_line_and_is_no_fault(
    tmp_path: Path,
    tokenizer_file: Path,
    make: SimpleNamespace,
    num_workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make.write_records(tmp_path / "s", [make.text_record(i) for i in range(50)])
    module = module_of(tokenizer_file, None, folder, num_workers=num_workers)
    loader = module.train_dataloader()
    read = ShardSet.read

    def fail(shards: ShardSet, index: int) -> tuple[str, dict[str, bytes]]:
        if index == 17:
            raise OSError(5, "Input/output error", "s/a.tar")
        return read(shards, index)

    monkeypatch.setattr(ShardSet, "read", fail)
    with pytest.raises(ValueError, match=r"^\[Errno 5\] Input/output error: 's/a\.tar'$"):
        list(loader)
    assert module.faults == {}
    module.teardown()


def test_the_evaluation_plan_reads_each_record_once_before_it_begins(
    tmp_path: Path, tokenizer_file: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make.write_records(tmp_path / "s", [make.text_record(i) for i in range(40)])
    module = module_of(tokenizer_file, None, folder, val=[folder])
    reads: list[int] = []
    read = ShardSet.read
    monkeypatch.setattr(ShardSet, "read", lambda shards, index: reads.append(index) or read(shards, index))
    [loader] = module.val_dataloader()
    assert sorted(reads) == list(range(40))
    assert sorted(name for batch in loader for name in batch.sample_ids) == sorted(f"text-{i}" for i in range(40))
