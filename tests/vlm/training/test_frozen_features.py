from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data.module import DataModule
from data.text import Picture
from encoders.feature_cache import FeatureCache
from vlm.training.frozen_features import LOOKED_UP, absent_pictures, looked_up, note_looked_up

KEY = "0123456789abcdef0123"


class Data(DataModule):
    """Shards by name, and the keys of their pictures, without files."""

    def __init__(self, identity: str, keys: list[str]) -> None:
        self.identity, self.keys = identity, keys

    def pictures_identity(self, split: str) -> str:
        return f"{self.identity}-{split}"

    def pictures(self, split: str) -> Iterator[Picture]:
        return (Picture(b"", key, 0, (1,)) for key in self.keys)


def test_the_same_shards_are_looked_up_once_and_changed_ones_anew(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, KEY)
    data = Data("shards", ["a", "b"])
    assert not looked_up(cache, data, ["train"])
    absent = absent_pictures(cache, data, ["train"])
    assert [picture.feature_key for picture in absent] == ["a-0", "b-0"]
    for picture in absent:
        cache.write(picture.feature_key, torch.ones(1, 4), (1, 1))
    cache.close()
    note_looked_up(cache, data, ["train"])
    assert looked_up(cache, data, ["train"])
    assert not looked_up(cache, data, ["train", "val"])
    assert not looked_up(cache, Data("changed", ["a", "b"]), ["train"])


def test_a_cache_that_lost_pictures_is_looked_up_anew(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, KEY)
    cache.write("a", torch.ones(1, 4), (1, 1))
    cache.close()
    data = Data("shards", ["a"])
    note_looked_up(cache, data, ["train"])
    (cache.folder / "index.jsonl").unlink()
    assert not looked_up(FeatureCache(tmp_path, KEY), data, ["train"])


def test_half_a_note_is_no_note(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, KEY)
    (cache.folder / LOOKED_UP).write_text("shards-tra")
    assert not looked_up(cache, Data("shards", []), ["train"])


GARBAGE = [
    b"shards-tra",
    b"shards-train",
    b"shards-train many\n",
    b"shards-train -1\n",
    b"shards-train 0 0\n",
    b"shards-train 1" + b"0" * 5000,
    b"\xff\xfe\x00\n",
    b"\x89PNG\r\n\x1a\n",
    b"\n\n{}\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_note_and_does_not_hide_the_next_one(tmp_path: Path, garbage: bytes) -> None:
    cache, data = FeatureCache(tmp_path, KEY), Data("shards", [])
    (cache.folder / LOOKED_UP).write_bytes(garbage)
    assert not looked_up(cache, data, ["train"])
    note_looked_up(cache, data, ["train"])
    assert looked_up(cache, data, ["train"])
    with (cache.folder / LOOKED_UP).open("ab") as file:
        file.write(garbage)
    assert looked_up(cache, data, ["train"])


def test_a_folder_in_the_notes_place_means_a_look_up_each_time(tmp_path: Path) -> None:
    cache, data = FeatureCache(tmp_path, KEY), Data("shards", [])
    (cache.folder / LOOKED_UP).mkdir()
    note_looked_up(cache, data, ["train"])
    assert not looked_up(cache, data, ["train"])
