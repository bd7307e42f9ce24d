import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data.image import check_header, decode
from data.image_header import upright_size
from data.sample import BadRecord


def smooth(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, channels), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def stored(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
@pytest.mark.parametrize("channels", [3, 4])
def test_the_header_has_the_size_that_pil_reads(kind: str, options: dict[str, object], channels: int) -> None:
    picture = smooth(77, 33, channels if kind != "JPEG" else 3)
    assert check_header(stored(picture, kind, **options)) == (77, 33)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def packed_xmp(orientation: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", (XMP % orientation).decode(), zip=True)
    return info


def profile(orientation: int) -> PngImagePlugin.PngInfo:
    """Exif as ImageMagick wrote it: hexadecimal, in a packed text."""
    data = turned(orientation).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n", zip=True)
    return info


def behind_the_pixels(data: bytes) -> bytes:
    """A PNG whose eXIf chunk stands after its pixels, where it may."""
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    return data[:start] + data[end:last] + data[start:end] + data[last:]


WAYS = {
    "jpeg": lambda n: stored(smooth(70, 30), "JPEG", exif=turned(n)),
    "jpeg-xmp": lambda n: stored(smooth(70, 30), "JPEG", xmp=XMP % n),
    "webp": lambda n: stored(smooth(70, 30), "WEBP", exif=turned(n)),
    "webp-xmp": lambda n: stored(smooth(70, 30), "WEBP", xmp=XMP % n),
    "png": lambda n: stored(smooth(70, 30), exif=turned(n)),
    "png-late": lambda n: behind_the_pixels(stored(smooth(70, 30), exif=turned(n))),
    "png-xmp": lambda n: stored(smooth(70, 30), pnginfo=packed_xmp(n)),
    "png-profile": lambda n: stored(smooth(70, 30), pnginfo=profile(n)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_upright_size_is_that_of_the_decoded_picture(way: str) -> None:
    sides = {orientation: upright_size(WAYS[way](orientation)) for orientation in range(10)}
    assert sides == {orientation: decode(WAYS[way](orientation)).size for orientation in range(10)}
    assert [orientation for orientation, size in sides.items() if size == (30, 70)] == [5, 6, 7, 8]


def test_a_picture_without_metadata_is_as_large_as_its_header_says() -> None:
    assert upright_size(stored(smooth(70, 30), "JPEG")) == (70, 30)


def test_metadata_that_cannot_be_read_are_the_pictures_fault() -> None:
    data = stored(smooth(70, 30), pnginfo=packed_xmp(6))
    with pytest.raises(BadRecord, match="has metadata that cannot be read"):
        upright_size(data[:-200])
