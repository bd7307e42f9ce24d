from pathlib import Path
from types import SimpleNamespace

import pytest

from data.shard_writer import ShardWriter, tar_size
from data.shards import Shard, write_shard


def test_shards_written_record_by_record_are_those_of_write_shard(tmp_path: Path, make: SimpleNamespace) -> None:
    records = [make.picture_record(number) for number in range(10)]
    with ShardWriter(tmp_path / "ours", None, 4) as writer:
        written = []
        for key, members in records:
            if writer.is_full(members):
                written.append(writer.close())
            writer.add(key, members)
        written.append(writer.close())
        assert writer.close() is None
    for number, shard in enumerate(written):
        write_shard(tmp_path / "theirs.tar", records[4 * number : 4 * number + 4])
        data = (tmp_path / "ours" / shard.name).read_bytes()
        assert data == (tmp_path / "theirs.tar").read_bytes()
        assert (shard.name, shard.bytes) == (f"{number:06}.tar", len(data))
    assert [shard.records for shard in written] == [4, 4, 2]


def test_a_shard_is_closed_before_it_grows_too_large(tmp_path: Path, make: SimpleNamespace) -> None:
    records = [make.picture_record(number) for number in range(12)]
    limit = 4 * max(tar_size(members) for _, members in records) + 1024
    with ShardWriter(tmp_path, limit, None) as writer:
        for key, members in [*records[:9], ("large", {"txt": bytes(3 * limit)}), *records[9:]]:
            if writer.is_full(members):
                writer.close()
            writer.add(key, members)
        writer.close()
    shards = sorted(tmp_path.glob("*.tar"))
    assert [len(Shard(path)) for path in shards] == [4, 4, 1, 1, 3]
    assert all(path.stat().st_size <= limit for path in shards if len(Shard(path)) > 1)


def test_an_open_shard_is_hidden_and_goes_with_an_error(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, None, None) as writer:
        writer.add("a", {"txt": b"x"})
        assert [path.name for path in tmp_path.iterdir()] == [".000000.tar.part"]
        with pytest.raises(ValueError, match="keys have no dot"):
            writer.add("a.b", {"txt": b"x"})
    assert list(tmp_path.iterdir()) == []
