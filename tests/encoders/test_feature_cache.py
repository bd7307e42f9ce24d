"""The feature cache: what is written is read, after crashes and from other processes too."""

import io
import pickle
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from data.image import prepare_image
from encoders.feature_cache import FeatureCache, fill
from encoders.patch_encoder import PatchEncoder
from encoders.protocol import Features, encoder_key

KEY = "0123456789abcdef0123"


def filled(folder: Path, count: int = 3) -> FeatureCache:
    cache = FeatureCache(folder, KEY)
    for number in range(count):
        cache.write(f"picture-{number}", torch.full((2, 4), float(number)), (1, 2))
    cache.close()
    return cache


def test_what_is_written_is_read_in_the_order_asked(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, KEY)
    written = {f"p{rows}": torch.randn(rows * 2, 4) for rows in (1, 3, 2)}
    for key, vectors in written.items():
        cache.write(key, vectors, (len(vectors) // 2, 2))
    for reader in (cache, FeatureCache(tmp_path, KEY)):
        for key, vectors in zip(["p2", "p1", "p3", "p1"], reader.read(["p2", "p1", "p3", "p1"]), strict=True):
            assert torch.equal(vectors, written[key].half().float())
            assert reader.grid(key) == (len(vectors) // 2, 2)
    assert "p1" in cache
    assert "p4" not in cache
    assert set(cache.keys()) == {"p1", "p2", "p3"}
    cache.close()


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 pictures are not in the feature cache .*\(first: other\)"):
        filled(tmp_path).read(["picture-0", "other"])


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_line_at_the_end_of_the_index_is_dropped_and_written_anew(tmp_path: Path, cut: int) -> None:
    folder = filled(tmp_path).folder
    index = folder / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-cut])
    assert "picture-2" not in FeatureCache(tmp_path, KEY)
    again = filled(tmp_path)
    assert [float(vectors[0, 0]) for vectors in again.read(["picture-0", "picture-1", "picture-2"])] == [0, 1, 2]
    assert set(FeatureCache(tmp_path, KEY).keys()) == {"picture-0", "picture-1", "picture-2"}


def test_vectors_without_a_line_are_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    data = filled(tmp_path).folder / "vectors.bin"
    whole = data.read_bytes()
    data.write_bytes(whole + b"half a pict")
    cache = FeatureCache(tmp_path, KEY)
    cache.write("next", torch.ones(1, 4), (1, 1))
    assert torch.equal(cache.read(["next"])[0], torch.ones(1, 4))
    assert len(data.read_bytes()) == len(whole) + 8
    cache.close()


def test_a_line_whose_vectors_are_cut_off_is_not_believed(tmp_path: Path) -> None:
    data = filled(tmp_path).folder / "vectors.bin"
    data.write_bytes(data.read_bytes()[:-2])
    assert set(FeatureCache(tmp_path, KEY).keys()) == {"picture-0", "picture-1"}


def test_two_readers_see_what_a_writer_flushes(tmp_path: Path) -> None:
    writer = FeatureCache(tmp_path, KEY)
    readers = [FeatureCache(tmp_path, KEY), FeatureCache(tmp_path, KEY)]
    for number in range(3):
        writer.write(f"p{number}", torch.full((1, 4), float(number)), (1, 1))
        writer.flush()
        for reader in readers:
            assert float(reader.read([f"p{number}"])[0][0, 0]) == number
    writer.close()


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first, second = FeatureCache(tmp_path, KEY), FeatureCache(tmp_path, KEY)
    first.write("a", torch.ones(1, 4), (1, 1))
    with pytest.raises(ValueError, match="another process is writing"):
        second.write("b", torch.ones(1, 4), (1, 1))
    first.close()
    second.write("b", torch.ones(1, 4), (1, 1))
    assert set(second.keys()) == {"a", "b"}
    second.close()


def test_a_cache_travels_to_another_process(tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(filled(tmp_path)))
    assert float(copy.read(["picture-1"])[0][0, 0]) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot make the feature cache .*file.*choose a folder that can be written"):
        FeatureCache(tmp_path / "file", KEY)


def test_the_cache_of_another_encoder_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(ValueError, match="belongs to another encoder"):
        FeatureCache(tmp_path, KEY[:16] + "zzzz")


@pytest.mark.parametrize(
    ("vectors", "grid", "message"),
    [
        (torch.ones(2, 5), (1, 2), "this cache needs rows x columns vectors of width 4"),
        (torch.ones(2, 4), (2, 2), "got 2 vectors of width 4 for a grid of \\(2, 2\\)"),
        (torch.full((2, 4), 1e6), (1, 2), "which the cache's fp16 cannot hold"),
        (torch.full((2, 4), float("nan")), (1, 2), "which the cache's fp16 cannot hold"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    tmp_path: Path, vectors: Tensor, grid: tuple[int, int], message: str
) -> None:
    cache = filled(tmp_path)
    with pytest.raises(ValueError, match=message):
        cache.write("next", vectors, grid)
    cache.close()


@dataclass(frozen=True)
class Stored:
    data: bytes
    feature_key: str


def picture(colour: int) -> Stored:
    stream = io.BytesIO()
    Image.new("RGB", (20, 30), (colour, 0, 0)).save(stream, "PNG")
    return Stored(stream.getvalue(), f"colour-{colour}-0")


def test_filling_skips_what_is_there_and_equals_encoding_one_by_one(tmp_path: Path) -> None:
    encoder = PatchEncoder(size_px=32, width=8)
    cache = FeatureCache(tmp_path, encoder_key(encoder))
    pictures = [picture(colour) for colour in range(10)]
    seen: list[tuple[int, int]] = []

    def prepare(stored: Stored) -> Tensor:
        return prepare_image(stored.data, encoder.spec)

    assert fill(cache, encoder, pictures[:4] * 2, prepare, batch_size=3) == 4
    assert fill(cache, encoder, iter(pictures), prepare, batch_size=4, progress=lambda *at: seen.append(at)) == 6
    assert fill(cache, encoder, pictures, prepare) == 0
    assert seen == [(4, 6), (6, 6)]
    assert encoder.training
    for stored, vectors in zip(pictures, cache.read([stored.feature_key for stored in pictures]), strict=True):
        alone = encoder.encode([encoder.spec.normalise(prepare(stored))]).vectors
        torch.testing.assert_close(vectors, alone, rtol=1e-3, atol=1e-3)  # fp16 keeps 11 bits


def test_filling_skips_counts_and_names_bad_pictures(tmp_path: Path) -> None:
    encoder = PatchEncoder(size_px=32, width=8)
    cache = FeatureCache(tmp_path, encoder_key(encoder))
    pictures = [picture(1), Stored(b"no picture", "broken-0"), picture(2)]
    with pytest.warns(UserWarning, match="1 of 3 pictures could not be prepared: broken-0"):
        assert (
            fill(cache, encoder, pictures, lambda stored: prepare_image(stored.data, encoder.spec), batch_size=1) == 2
        )
    assert "broken-0" not in cache


def test_a_fault_of_the_caller_stops_the_filling_and_what_was_done_stays(tmp_path: Path) -> None:
    encoder = PatchEncoder(size_px=32, width=8)
    cache = FeatureCache(tmp_path, encoder_key(encoder))

    def prepare(stored: Stored) -> Tensor:
        if stored.feature_key == "colour-3-0":
            raise RuntimeError("stopped")
        return prepare_image(stored.data, encoder.spec)

    with pytest.raises(RuntimeError, match="stopped"):
        fill(cache, encoder, [picture(colour) for colour in range(5)], prepare, batch_size=2)
    again = FeatureCache(tmp_path, encoder_key(encoder))
    assert set(again.keys()) == {"colour-0-0", "colour-1-0"}
    assert fill(again, encoder, [picture(colour) for colour in range(3)], prepare) == 1


def test_a_reader_that_waits_sees_all_that_the_writer_wrote(tmp_path: Path) -> None:
    writer, reader = FeatureCache(tmp_path, KEY), FeatureCache(tmp_path, KEY)
    reader.wait()  # nobody has written yet
    writer.lock()
    waiting = threading.Thread(target=reader.wait, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    writer.write("a", torch.ones(1, 4), (1, 1))
    writer.close()
    waiting.join(20)
    assert not waiting.is_alive()
    assert "a" in reader


class Forgetful(PatchEncoder):
    """Keeps what it works on in itself, as encoders with hooks do."""

    def encode(self, images: Sequence[Tensor]) -> Features:
        self.kept = list(images)
        time.sleep(0.01)
        return super().encode(self.kept)


def test_threads_do_not_share_what_an_encoder_keeps_in_itself(tmp_path: Path) -> None:
    encoder = Forgetful(size_px=32, width=8)
    cache = FeatureCache(tmp_path, encoder_key(encoder))
    pictures = [picture(colour) for colour in range(0, 240, 10)]
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        fill(cache, encoder, pictures, lambda stored: prepare_image(stored.data, encoder.spec), batch_size=2)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    for stored in pictures:
        alone = encoder.encode([encoder.spec.normalise(prepare_image(stored.data, encoder.spec))]).vectors
        # fp16 keeps 11 bits of each value
        torch.testing.assert_close(cache.read([stored.feature_key])[0], alone.detach(), rtol=1e-3, atol=1e-3)
