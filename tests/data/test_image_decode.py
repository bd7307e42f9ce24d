import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.image_decode import decode, decode_rgb
from data.image_header import orientation, upright_size
from data.sample import BadRecord


def smooth(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(decode(data).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(64, 48), (97, 61), (17, 9), (1, 1), (8, 300)])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 88},
        {"quality": 30, "optimize": True},
        {"quality": 88, "subsampling": 0},
        {"quality": 88, "subsampling": 1},
        {"quality": 88, "progressive": True},
        {"quality": 88, "keep_rgb": True},
        {"quality": 88, "restart_marker_blocks": 2},
        {"quality": 88, "icc_profile": b"not a profile"},
    ],
    ids=str,
)
def test_a_plain_jpeg_has_the_pixels_that_pillow_has(size: tuple[int, int], options: dict[str, object]) -> None:
    data = jpeg(smooth(*size), **options)
    pixels = decode_rgb(data)
    assert pixels is not None
    assert torch.equal(pixels, by_pillow(data))


def test_grey_becomes_three_channels() -> None:
    data = jpeg(smooth(40, 30).convert("L"))
    pixels = decode_rgb(data)
    assert pixels is not None
    assert torch.equal(pixels, by_pillow(data))


@pytest.mark.parametrize("number", range(1, 10))
def test_a_picture_on_its_side_is_set_upright(number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    data = jpeg(smooth(48, 32), exif=exif)
    pixels = decode_rgb(data)
    assert pixels is not None
    assert torch.equal(pixels, by_pillow(data))
    assert tuple(pixels.shape[:0:-1]) == upright_size(data)
    assert orientation(data) == (number if number < 9 else 1)


def test_other_pictures_are_left_to_pillow() -> None:
    picture = smooth(32, 32)
    file = io.BytesIO()
    picture.save(file, "PNG")
    twelve_bits = bytearray(jpeg(picture))
    twelve_bits[twelve_bits.index(b"\xff\xc0") + 4] = 12
    for data in (jpeg(picture.convert("CMYK")), file.getvalue(), bytes(twelve_bits)):
        assert decode_rgb(data) is None


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_a_cut_jpeg_is_decoded_by_neither(options: dict[str, object]) -> None:
    data = jpeg(smooth(48, 40), **options)
    begins = data.index(b"\xff\xc2" if options else b"\xff\xc0") + 19
    for end in range(begins, len(data) - 1, 7):
        assert decode_rgb(data[:end]) is None
        with pytest.raises(BadRecord, match="cannot be decoded"):
            decode(data[:end])


@settings(max_examples=300, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_what_torchvision_makes_of_damage_is_what_pillow_makes(places: list[tuple[int, int]]) -> None:
    damaged = bytearray(jpeg(smooth(24, 40), quality=60))
    for place, value in places:
        damaged[place % len(damaged)] = value
    try:
        pixels = decode_rgb(bytes(damaged))
    except BadRecord:
        return
    if pixels is not None:
        assert torch.equal(pixels, by_pillow(bytes(damaged)))
