"""Pictures: from stored bytes to a square of pixels, and to the number of slots a picture takes.

In: bytes as stored. Out: uint8 (3, size, size), or a `BadRecord`. The header is checked before anything is decoded, so
a bomb costs no memory. An augmented copy is a pure function of bytes and number, so its features can be cached.
"""

import hashlib
import io
import struct
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from data.sample import BadRecord

MAX_PIXELS = 64_000_000
FORMATS = ("JPEG", "PNG", "WEBP")
# Ranges of an augmented copy. No mirror image: text and "left of" must stay true.
MAX_DEGREES, MAX_SHIFT, ZOOM = 12.0, 0.08, (0.85, 1.15)
BRIGHTNESS, CONTRAST, SATURATION = (0.8, 1.2), (0.8, 1.2), (0.7, 1.3)


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How an encoder wants its pictures: a square of `size_px`, normalised by `mean` and `std` of values in [0, 1]."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fit: Literal["squash", "letterbox"] = "letterbox"  # letterbox keeps the aspect ratio and fills with the background
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.size_px < 1:
            raise ValueError(f"size_px is the side of the square in pixels and must be at least 1, got {self.size_px}")
        if min(self.std) <= 0:
            raise ValueError(f"std divides the pixels and must be above 0, got {self.std}")

    def normalise(self, image: UInt8[Tensor, "*i 3 H W"]) -> Float[Tensor, "*i 3 H W"]:
        """Pixels as the encoder takes them, on the picture's own device."""
        # Filled there, not copied from here: a copy would wait for the device.
        mean, std = (
            torch.stack([torch.full((1, 1), value, device=image.device) for value in values])
            for values in (self.mean, self.std)
        )
        return (image.float() / 255 - mean) / std


@runtime_checkable
class ConnectorLayout(Protocol):
    """What a connector does to an encoder's grid."""

    def grid(self, rows: int, columns: int) -> tuple[int, int]: ...


class ImageLayout:
    """How many slots a picture takes in the sequence, and where they lie in its plane; known before any weight exists.

    Args:
        spec: how pictures are prepared.
        grid: (rows, columns) of the encoder's vectors for a picture of that spec.
        connector: maps that grid to the one the backbone sees; None keeps it.
    """

    def __init__(self, spec: ImageSpec, grid: tuple[int, int], connector: ConnectorLayout | None = None) -> None:
        self.spec = spec
        self.rows, self.columns = connector.grid(*grid) if connector is not None else grid
        if self.rows < 1 or self.columns < 1:
            raise ValueError(
                f"a picture needs at least one slot, got {self.rows} x {self.columns} from the grid {grid}"
            )

    @classmethod
    def from_encoder(cls, encoder: Any, connector: ConnectorLayout | None = None) -> "ImageLayout":
        """The layout of an encoder that has `spec` and `grid(height, width)`."""
        size = encoder.spec.size_px
        rows, columns = encoder.grid(size, size)
        return cls(encoder.spec, (int(rows), int(columns)), connector)

    @property
    def slots(self) -> int:
        return self.rows * self.columns

    def fingerprint(self) -> str:
        """Changes with everything that changes the packing or the pixels."""
        text = repr((sorted(asdict(self.spec).items()), self.rows, self.columns))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def picture_key(data: bytes) -> str:
    """The name of a picture: the same bytes have the same name in every data set."""
    return hashlib.sha256(data).hexdigest()[:32]


def check_header(data: bytes) -> tuple[int, int]:
    """(width, height) from the header alone, in microseconds.

    Raises:
        BadRecord: no JPEG, PNG or WebP, or more pixels than `MAX_PIXELS`.
    """
    try:
        size = _stored_size(data)
    except (struct.error, IndexError):
        size = None
    if size is None:
        what = "is empty" if not data else f"begins with {data[:8]!r}, which is no {', '.join(FORMATS)}"
        raise BadRecord(f"picture of {len(data):,} bytes {what}", "corrupt picture")
    width, height = size
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} megapixels"
        raise BadRecord(f"picture has {width} x {height} pixels, above the limit of {limit}", "picture too large")
    if width < 1 or height < 1:
        raise BadRecord(f"picture has {width} x {height} pixels", "corrupt picture")
    return size


def prepare_image(data: bytes, spec: ImageSpec, augmentation: int = 0) -> UInt8[Tensor, "3 H W"]:
    """Decode, flatten, fit into the square.

    Args:
        data: the picture as stored.
        spec: what the encoder wants.
        augmentation: 0 is the picture itself, k its k-th altered copy (rotated, zoomed, shifted, other light).

    Raises:
        BadRecord: what is wrong with the picture; does not name the record (the caller knows it).
    """
    chance = _chance(data, augmentation) if augmentation else None
    picture = decode(data)
    background = spec.background
    if picture.mode == "RGBA":
        if chance is not None:  # any light colour, so that the model does not learn the one behind cut-outs
            red, green, blue = (int(value) for value in chance.integers(200, 256, 3))
            background = (red, green, blue)
        canvas = Image.new("RGBA", picture.size, (*background, 255))
        picture = Image.alpha_composite(canvas, picture).convert("RGB")
    pixels = _fit(torch.from_numpy(np.array(picture)).permute(2, 0, 1), spec, background)
    return pixels if chance is None else _alter(pixels, chance, background)


def decode(data: bytes) -> Image.Image:
    """The upright picture as RGB, or as RGBA if it has transparency.

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
            if picture.mode.startswith("I"):  # 16 bits: convert() would clip instead of scale
                deep = np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)
                picture = Image.fromarray((deep >> 8).astype(np.uint8))
            return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    # PIL raises SyntaxError, EOFError, zlib and struct errors for corrupt data: every one is this picture's fault.
    except MemoryError:
        raise
    except Exception as error:
        raise BadRecord(f"picture of {len(data):,} bytes cannot be decoded ({error})", "corrupt picture") from None


def _stored_size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        return struct.unpack(">II", data[16:24])
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data)
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the segments to the frame header (SOF0-SOF15 without DHT, JPG and DAC)."""
    offset = 2
    while True:
        if data[offset] != 0xFF:
            return None
        marker = data[offset + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill byte, or a marker without a length
            offset += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[offset + 5 : offset + 9])
            return width, height
        if marker in (0xD9, 0xDA):
            return None
        offset += 2 + struct.unpack(">H", data[offset + 2 : offset + 4])[0]


def _chance(data: bytes, augmentation: int) -> np.random.Generator:
    digest = hashlib.blake2b(data, digest_size=16, salt=struct.pack("<q", augmentation)).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _fit(image: UInt8[Tensor, "3 h w"], spec: ImageSpec, background: tuple[int, int, int]) -> UInt8[Tensor, "3 H W"]:
    """Resize with antialiasing. torch's uint8 path gives PIL's pixels to within rounding, several times faster."""
    _, height, width = image.shape
    scale = spec.size_px / max(height, width)
    target = [spec.size_px] * 2 if spec.fit == "squash" else [max(1, round(side * scale)) for side in (height, width)]
    if [height, width] != target:
        image = functional.interpolate(image[None], target, mode=spec.interpolation, antialias=True)[0]
    if target == [spec.size_px] * 2:
        return image.contiguous()
    canvas = torch.tensor(background, dtype=torch.uint8)[:, None, None].repeat(1, spec.size_px, spec.size_px)
    top, left = ((spec.size_px - side) // 2 for side in target)
    canvas[:, top : top + target[0], left : left + target[1]] = image
    return canvas


def _alter(
    image: UInt8[Tensor, "3 H W"], chance: np.random.Generator, background: tuple[int, int, int]
) -> UInt8[Tensor, "3 H W"]:
    """Turn, zoom and shift in one step, then change the light."""
    size = image.shape[1]
    angle = np.deg2rad(chance.uniform(-MAX_DEGREES, MAX_DEGREES))
    zoom, shift = chance.uniform(*ZOOM), chance.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * size
    cosine, sine, middle = np.cos(angle) / zoom, np.sin(angle) / zoom, (size - 1) / 2
    x, y = middle + shift
    # PIL asks where in the source each target pixel comes from.
    source = (cosine, sine, middle - cosine * x - sine * y, -sine, cosine, middle + sine * x - cosine * y)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    turned = picture.transform(
        (size, size), Image.Transform.AFFINE, source, Image.Resampling.BILINEAR, fillcolor=background
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
