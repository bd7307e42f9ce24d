"""Stored bytes to the pixels of the upright picture.

In: bytes. Out: a PIL picture (`decode`), or uint8 (3, height, width) (`decode_rgb`, for what has no transparency). A plain JPEG
goes through torchvision, which has the pixels that Pillow has, sooner; Pillow has the last word on what is no picture.
Measured, with 1/f noise of 0.4 MP to 224 px on one core: 224 to 249 pictures/s, 162 with Pillow's decoder (docs/images.md).
"""

import io
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from data.image_header import FORMATS, check_header, is_plain_jpeg, orientation, upright_size
from data.sample import BadRecord

RGB = 3  # of torchvision's ImageReadMode
# What makes a picture upright, by its orientation of Exif, on (3, height, width).
UPRIGHT: dict[int, Callable[[Tensor], Tensor]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.transpose(1, 2).flip(2),
    7: lambda pixels: pixels.transpose(1, 2).flip(1, 2),
    8: lambda pixels: pixels.transpose(1, 2).flip(1),
}


def decode_rgb(data: bytes) -> UInt8[Tensor, "3 H W"] | None:
    """The pixels of a plain JPEG; None for what else there is, and for what torchvision does not decode.

    Raises:
        BadRecord: its header is bad.
    """
    width, height = check_header(data)
    if not is_plain_jpeg(data) or (decode_jpeg := _jpeg_decoder()) is None:
        return None
    try:
        # A copy: torch warns of memory that cannot be written. 10 us for 200 kB.
        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), RGB, False)
    except RuntimeError:  # Pillow says what is wrong with it, or decodes it
        return None
    if pixels.shape != (3, height, width):
        return None
    return UPRIGHT[orientation(data)](pixels)


@cache
def _jpeg_decoder() -> Callable[..., Tensor] | None:
    """torchvision's operator; None where a later torchvision has it no more, and Pillow decodes the same pixels.

    Not `torchvision.io.decode_jpeg`, which since 0.29 warns at each call that it will go one day.
    """
    import torchvision.io  # noqa: F401  registers it

    return getattr(torch.ops.image, "decode_jpeg", None)


def decode(data: bytes) -> Image.Image:
    """The upright picture as RGB, or as RGBA if it has transparency, by Pillow.

    Raises:
        BadRecord: the picture is too large, cut short or corrupt.
    """
    size = check_header(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF, odd palettes: the picture is still the picture
            picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.size != size:
                raise ValueError(f"its header says {size[0]} x {size[1]}, its data {picture.width} x {picture.height}")
            picture.load()
            picture = ImageOps.exif_transpose(picture)
            if picture.size != (upright := upright_size(data)):  # slots were counted by it
                raise ValueError(
                    f"its metadata say {upright[0]} x {upright[1]}, it is {picture.width} x {picture.height}"
                )
            if picture.mode.startswith("I"):  # 16 bits: convert() would clip instead of scale
                deep = np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)
                picture = Image.fromarray((deep >> 8).astype(np.uint8))
            return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    # PIL raises SyntaxError, EOFError, zlib and struct errors for corrupt data: every one is this picture's fault.
    except MemoryError:
        raise
    except Exception as error:
        raise BadRecord(f"picture of {len(data):,} bytes cannot be decoded ({error})", "corrupt picture") from None
