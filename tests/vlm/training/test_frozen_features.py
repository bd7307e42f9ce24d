from collections.abc import Iterator
from pathlib import Path

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
        return (Picture(b"", key, 0) for key in self.keys)


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
