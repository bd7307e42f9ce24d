"""Pictures: from stored bytes to the pixels that an encoder takes.

In: bytes as stored. Out: uint8 (3, height, width) for each crop, or a `BadRecord`. The header is checked before anything is
decoded, so a bomb costs no memory. An augmented copy is a pure function of bytes and number, so its features can be cached.
Sizes and slots are known before: see image_spec.py and image_layout.py.
"""

import copy
import hashlib
import struct
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from data.image_decode import decode, decode_rgb
from data.image_header import FORMATS, MAX_PIXELS, check_header, upright_size
from data.image_layout import ConnectorLayout, ImageLayout
from data.image_spec import Canvas, ImageSpec

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ConnectorLayout",
    "ImageLayout",
    "ImageSpec",
    "check_header",
    "decode",
    "draw_canvases",
    "picture_key",
    "prepare_crops",
    "prepare_image",
]

# Ranges of an augmented copy. No mirror image: text and "left of" must stay true.
MAX_DEGREES, MAX_SHIFT, ZOOM = 12.0, 0.08, (0.85, 1.15)
BRIGHTNESS, CONTRAST, SATURATION = (0.8, 1.2), (0.8, 1.2), (0.7, 1.3)


def picture_key(data: bytes) -> str:
    """The name of a picture: the same bytes have the same name in every data set."""
    return hashlib.sha256(data).hexdigest()[:32]


def prepare_image(data: bytes, spec: ImageSpec, augmentation: int = 0) -> UInt8[Tensor, "3 H W"]:
    """The pixels of a picture whose spec makes one crop of it, as `prepare_crops`.

    Raises:
        BadRecord: what is wrong with the picture.
        ValueError: the spec cuts this picture into tiles.
    """
    crops = prepare_crops(data, spec, augmentation)
    if len(crops) > 1:
        raise ValueError(f"fit: {spec.fit} makes {len(crops)} crops of this picture; use prepare_crops")
    return crops[0]


def prepare_crops(data: bytes, spec: ImageSpec, augmentation: int = 0) -> list[UInt8[Tensor, "3 _ _"]]:
    """Decode, flatten, fit, cut: what the encoder sees of a picture, in the order of an `ImagePlan`.

    Args:
        data: the picture as stored.
        spec: what the encoder wants; for `native` that of an `ImageLayout`.
        augmentation: 0 is the picture itself, k its k-th altered copy (rotated, zoomed, shifted, other light).

    Raises:
        BadRecord: what is wrong with the picture; does not name the record (the caller knows it).
    """
    width, height = upright_size(data)
    canvases = spec.canvases(height, width)
    drawn = draw_canvases(data, spec, canvases, augmentation)
    return [crop for canvas, pixels in zip(canvases, drawn, strict=True) for crop in _cut(pixels, canvas)]


def draw_canvases(
    data: bytes, spec: ImageSpec, canvases: Sequence[Canvas], augmentation: int = 0
) -> list[UInt8[Tensor, "3 _ _"]]:
    """The whole picture on each canvas, altered alike on all of them.

    Raises:
        BadRecord: what is wrong with the picture.
    """
    chance = _chance(data, augmentation) if augmentation else None
    background = spec.background
    source = decode_rgb(data)
    if source is None:
        picture = decode(data)
        if picture.mode == "RGBA":
            if chance is not None:  # any light colour, so that the model does not learn the one behind cut-outs
                red, green, blue = (int(value) for value in chance.integers(200, 256, 3))
                background = (red, green, blue)
            under = Image.new("RGBA", picture.size, (*background, 255))
            picture = Image.alpha_composite(under, picture).convert("RGB")
        source = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    drawn = []
    for canvas in canvases:
        pixels, longer = _fit(source, canvas, spec, background)
        drawn.append(pixels if chance is None else _alter(pixels, longer, copy.deepcopy(chance), background))
    return drawn


def _chance(data: bytes, augmentation: int) -> np.random.Generator:
    digest = hashlib.blake2b(data, digest_size=16, salt=struct.pack("<q", augmentation)).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _cut(pixels: UInt8[Tensor, "3 H W"], canvas: Canvas) -> list[UInt8[Tensor, "3 h w"]]:
    if canvas.down * canvas.across == 1:
        return [pixels]
    rows = pixels.chunk(canvas.down, dim=1)
    return [tile.contiguous() for row in rows for tile in row.chunk(canvas.across, dim=2)]


def _fit(
    image: UInt8[Tensor, "3 h w"], canvas: Canvas, spec: ImageSpec, background: tuple[int, int, int]
) -> tuple[UInt8[Tensor, "3 H W"], int]:
    """The picture in the middle of its canvas, and the longer side that it has there.

    In memory the colours of a pixel stay side by side, as decoders leave them: a fifth of the time of resizing goes into planes.
    """
    # torch's uint8 path gives PIL's pixels to within rounding, several times faster.
    _, height, width = image.shape
    full = [canvas.height, canvas.width]
    scale = min(canvas.height / height, canvas.width / width)
    target = full if canvas.fills else [max(1, round(side * scale)) for side in (height, width)]
    if [height, width] != target:
        # The stride of the one picture says how its pixels lie; without it torch takes planes for the result.
        one = image.as_strided((1, *image.shape), (image.numel(), *image.stride()))
        image = functional.interpolate(one, target, mode=spec.interpolation, antialias=True)[0]
    if target == full:
        return image, max(target)
    pixels = torch.tensor(background, dtype=torch.uint8).repeat(*full, 1).permute(2, 0, 1)
    top, left = ((whole - side) // 2 for whole, side in zip(full, target, strict=True))
    pixels[:, top : top + target[0], left : left + target[1]] = image
    return pixels, max(target)


def _alter(
    image: UInt8[Tensor, "3 H W"], longer: int, chance: np.random.Generator, background: tuple[int, int, int]
) -> UInt8[Tensor, "3 H W"]:
    """Turn, zoom and shift in one step, then change the light.

    Args:
        longer: the longer side of the picture on its canvas, of which a shift is a share.
    """
    _, height, width = image.shape
    angle = np.deg2rad(chance.uniform(-MAX_DEGREES, MAX_DEGREES))
    zoom, shift = chance.uniform(*ZOOM), chance.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * longer
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    middle = np.array([width - 1, height - 1]) / 2
    x, y = middle + shift
    # PIL asks where in the source each target pixel comes from.
    source = (cosine, sine, middle[0] - cosine * x - sine * y, -sine, cosine, middle[1] + sine * x - cosine * y)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    turned = picture.transform(
        (width, height), Image.Transform.AFFINE, source, Image.Resampling.BILINEAR, fillcolor=background
    )
    pixels = np.asarray(turned, dtype=np.float32)
    brightness, contrast, saturation = (chance.uniform(*span) for span in (BRIGHTNESS, CONTRAST, SATURATION))
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    # Plane by plane and in place: 1.0 ms for a copy of 192 px instead of 1.2.
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    planes *= np.float32(saturation)
    planes += np.float32(1 - saturation) * grey
    planes *= np.float32(contrast * brightness)
    planes += np.float32((1 - contrast) * brightness * grey.mean())
    return torch.from_numpy(planes.clip(0, 255, out=planes).astype(np.uint8))
