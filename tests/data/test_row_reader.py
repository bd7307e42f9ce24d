import json
import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.batch import collate
from data.faults import BY_RULE
from data.image import ImageLayout
from data.order import Draw
from data.overlong import OverlongRule
from data.row_reader import RowReader
from data.sample import parse_sample
from data.shards import open_shards
from data.source import Source
from data.text import sample_row
from data.tokenizer import Tokenizer
from encoders.patch_encoder import PatchEncoder

Record = tuple[str, dict[str, bytes]]


def many_pictures(number: int, num_pictures: int, make: SimpleNamespace) -> Record:
    """A page with a text before each picture and one behind the last."""
    members = {f"{i}.png": make.picture(number * 10 + i, (12 + number % 30, 10 + i)) for i in range(num_pictures)}
    content = []
    for name in members:
        content += [{"type": "text", "text": f"see {name} " * (number % 4)}, {"type": "image", "image": name}]
    content.append({"type": "text", "text": f"the end of page {number}"})
    return f"m{number:05d}", {"json": json.dumps({"id": f"page-{number}", "content": content}).encode(), **members}


def reader_of(
    folder: str, tokenizer: Tokenizer, layout: ImageLayout | None, row_tokens: int, overlong: OverlongRule = "drop"
) -> RowReader:
    return RowReader([Source("s", open_shards(folder))], tokenizer, layout, row_tokens, overlong=overlong)


def test_what_waits_holds_no_picture_and_comes_back_as_it_was(
    tmp_path: Path, tokenizer: Tokenizer, layout: ImageLayout, make: SimpleNamespace
) -> None:
    records = [make.text_record(0, 40), make.picture_record(1), many_pictures(2, 3, make)]
    reader = reader_of(make.write_records(tmp_path / "s", records), tokenizer, layout, 200)
    for index, (key, members) in enumerate(records):
        [planned] = reader.plan(Draw(0, index, 0))
        whole = sample_row(parse_sample(key, members), tokenizer, layout)
        row = reader.row(planned)
        assert planned.length == len(row)
        assert row.pictures == whole.pictures
        for name in ("ids", "loss", "is_image", "positions"):
            np.testing.assert_array_equal(getattr(row, name), getattr(whole, name))
            assert getattr(row, name).dtype == getattr(whole, name).dtype
        # 11 bytes for a token, and some hundred for its names; the three pictures alone take 1,000.
        assert len(pickle.dumps(planned)) < 900 + 11 * len(row)


def test_cached_pictures_are_not_read_again(
    tmp_path: Path, tokenizer: Tokenizer, layout: ImageLayout, make: SimpleNamespace
) -> None:
    key, members = make.picture_record(1)
    whole = sample_row(parse_sample(key, members), tokenizer, layout)
    source = Source("s", open_shards(make.write_records(tmp_path / "s", [(key, members)])))
    reader = RowReader([source], tokenizer, layout, 200, {whole.pictures[0].feature_key})
    [planned] = reader.plan(Draw(0, 0, 0))
    row = reader.row(planned)
    assert row.pictures[0].data == b""
    assert row.pictures[0].feature_key == whole.pictures[0].feature_key
    np.testing.assert_array_equal(row.positions, whole.positions)


@pytest.mark.parametrize(("rule", "ids"), [("drop", []), ("cut", ["text-0"]), ("split", ["text-0", "text-0#1"])])
def test_a_record_that_is_too_long_goes_by_the_rule_and_is_counted(
    tmp_path: Path, tokenizer: Tokenizer, make: SimpleNamespace, rule: OverlongRule, ids: list[str]
) -> None:
    folder = make.write_records(tmp_path / "s", [make.text_record(0, 30), make.text_record(1, 3)])
    [short] = reader_of(folder, tokenizer, None, 1000).plan(Draw(0, 1, 0))
    [long] = reader_of(folder, tokenizer, None, 1000).plan(Draw(0, 0, 0))
    reader = reader_of(folder, tokenizer, None, long.length // 2 + short.length, rule)
    planned = reader.plan(Draw(0, 0, 0)) + reader.plan(Draw(0, 1, 0))
    assert [reader.row(one).sample_id for one in planned] == [*ids, "text-1"]
    parcel = reader.parcel(None)
    assert [(fault.reason, fault.key, fault.sha256) for fault in parcel.faults] == [(BY_RULE[rule], "t00000", {})]
    assert f"has {long.length} tokens" in parcel.faults[0].message
    assert parcel.reads == {"s": 2}


def test_a_picture_that_cannot_be_decoded_takes_only_its_own_row_out(
    tmp_path: Path, tokenizer: Tokenizer, layout: ImageLayout, make: SimpleNamespace
) -> None:
    records = [make.picture_record(i) for i in range(3)]
    records[1] = (records[1][0], {**records[1][1], "0.png": make.picture(1)[:-40]})
    reader = reader_of(make.write_records(tmp_path / "s", records), tokenizer, layout, 200)
    planned = [row for index in range(3) for row in reader.plan(Draw(0, index, 0))]
    assert reader.parcel(None).faults == ()
    batch = reader.batch(planned, 5)
    assert batch is not None
    batch.check()
    assert (batch.sample_ids, batch.cursor) == (("picture-0", "picture-2"), 5)
    [fault] = reader.parcel(batch).faults
    assert (fault.reason, fault.key, fault.index) == ("corrupt picture", "p00001", 1)
    assert set(fault.sha256) == {"json", "0.png"}
    assert reader.batch(planned[1:2]) is None


def test_an_error_of_the_disk_is_no_fault_of_a_record(
    tmp_path: Path, tokenizer: Tokenizer, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(make.write_records(tmp_path / "s", [make.text_record(0)]), tokenizer, None, 200)

    def fail(shards: object, index: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("data.shards.ShardSet.read", fail)
    with pytest.raises(OSError, match="Input/output"):
        reader.plan(Draw(0, 0, 0))
    assert reader.parcel(None).faults == ()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> str:
    kinds = [
        lambda i: make.text_record(i, 1 + i % 60),
        make.picture_record,
        lambda i: many_pictures(i, 2 + i % 5, make),
    ]
    records = [kinds[i % 3](i) for i in range(90)]
    return make.write_records(tmp_path_factory.mktemp("mixed") / "s", records, per_shard=90)


@pytest.mark.parametrize(
    "settings", [{"fit": "squash"}, {"fit": "tiles", "max_tiles": 4}, {"fit": "native", "max_pixels": 1500}], ids=str
)
@pytest.mark.parametrize("rule", ["drop", "cut", "split"])
def test_slots_always_equal_the_vectors_of_the_encoder(
    mixed: str, tokenizer: Tokenizer, settings: dict[str, object], rule: OverlongRule
) -> None:
    encoder = PatchEncoder(size_px=32, patch_px=8, width=4)
    encoder.spec = type(encoder.spec)(**{**vars(encoder.spec), **settings})
    layout = ImageLayout.from_encoder(encoder)
    random_ = random.Random(str(settings) + rule)
    reader = reader_of(mixed, tokenizer, layout, 150, rule)
    kinds = set()
    for _ in range(25):
        # Text alone, pictures alone, and every mix between.
        choices = random_.choice([range(0, 90, 3), range(1, 90, 3), range(2, 90, 3), range(90)])
        draws = [Draw(0, random_.choice(choices), random_.randrange(2)) for _ in range(random_.randint(1, 6))]
        planned = [row for draw in draws for row in reader.plan(draw)]
        random_.shuffle(planned)
        batch = reader.batch(planned)
        if batch is None:
            assert not planned
            continue
        batch.check()
        pixels = [image.float() / 127.5 - 1 for image in batch.images if image is not None]
        with torch.no_grad():
            features = encoder.encode(pixels) if pixels else None
        num_vectors = 0 if features is None else len(features.vectors)
        assert batch.num_image_slots == num_vectors == int(batch.is_image.sum())
        if features is not None:
            assert tuple(features.grids.prod(dim=1).tolist()) == batch.slots_per_image
        kinds.add(min(2, len(batch.images)))
    assert {0, 2} <= kinds


def test_a_batch_is_that_of_its_rows(mixed: str, tokenizer: Tokenizer, layout: ImageLayout) -> None:
    reader = reader_of(mixed, tokenizer, layout, 300)
    planned = [row for index in range(9) for row in reader.plan(Draw(0, index, 1))]
    batch, slow = reader.batch(planned, 3), collate([reader.row(one) for one in planned], layout.spec, cursor=3)
    assert batch is not None
    assert (batch.sample_ids, batch.image_keys, batch.cursor) == (slow.sample_ids, slow.image_keys, slow.cursor)
    for mine, theirs in zip(
        (batch.ids, batch.labels, *batch.images), (slow.ids, slow.labels, *slow.images), strict=True
    ):
        assert mine is not None
        assert theirs is not None
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
