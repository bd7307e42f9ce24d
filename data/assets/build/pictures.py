"""Turn a package's picture into the few bytes that are committed, and tell near-duplicates.

In: PNG bytes or SVG text. Out: WebP bytes, and 16 x 16 thumbnails on white.
"""

import io
import signal
from collections.abc import Iterable
from types import FrameType

import numpy as np
from PIL import Image

EMOJI_PX = 64
CLIPART_PX = 128
# Mean absolute difference of 16 x 16 thumbnails, of 255, below which two pictures count as one.
NEAR_DUPLICATE = 6.0


def render_svg(svg: bytes, width_px: int, timeout_s: int = 20) -> Image.Image:
    """Draw an SVG on a transparent page of the given width.

    Raises:
        ValueError: the drawing is broken or takes longer than `timeout_s`.
    """
    import cairosvg

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still drawing after {timeout_s} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(timeout_s)
    try:
        png = cairosvg.svg2png(bytestring=svg, output_width=width_px)
        return Image.open(io.BytesIO(png)).convert("RGBA")
    except Exception as error:  # cairosvg lets errors of every kind through
        raise ValueError(f"this SVG cannot be drawn: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def render_content(svg: bytes, size_px: int) -> Image.Image:
    """Draw an SVG without its empty margin, large enough to be shrunk to `size_px`.

    Raises:
        ValueError: the drawing is broken, slow, empty, or next to nothing on its page.
    """
    width_px = 4 * size_px
    drawn = crop_to_content(render_svg(svg, width_px))
    if max(drawn.size) < 2 * size_px:
        larger = min(2 * size_px * width_px // max(drawn.size), 32 * size_px)
        drawn = crop_to_content(render_svg(svg, larger))
    if max(drawn.size) < size_px:
        raise ValueError(f"the drawing fills {drawn.size} pixels of a page that is {larger} wide")
    return drawn


def fit_square(picture: Image.Image, size_px: int) -> Image.Image:
    """Shrink to fit a transparent square, centred; premultiplied while resizing, so that edges do not darken."""
    scale = size_px / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGBA")
    square = Image.new("RGBA", (size_px, size_px), (0, 0, 0, 0))
    square.paste(small, ((size_px - width) // 2, (size_px - height) // 2))
    return square


def crop_to_content(picture: Image.Image) -> Image.Image:
    """Cut off the fully transparent margin; a wholly transparent picture raises ValueError."""
    box = picture.getchannel("A").getbbox()
    if box is None:
        raise ValueError("the picture is empty")
    return picture.crop(box)


def emoji_webp(picture: Image.Image) -> bytes:
    """Encode with alpha, losslessly after a reduction to 64 colours: about 0.9 KB at 64 px, against 4 KB as PNG."""
    reduced = picture.convert("RGBA").quantize(64, method=Image.Quantize.FASTOCTREE).convert("RGBA")
    buffer = io.BytesIO()
    reduced.save(buffer, format="WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def clipart_webp(picture: Image.Image) -> bytes:
    """Encode on white; gradients make lossless files four times as big."""
    buffer = io.BytesIO()
    on_white(picture).save(buffer, format="WEBP", quality=72, method=6)
    return buffer.getvalue()


def on_white(picture: Image.Image) -> Image.Image:
    """Flatten over white by the alpha channel."""
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("RGB")


def thumbnail(data: bytes) -> np.ndarray:
    """Return the 16 x 16 RGB thumbnail of a picture's bytes, flat, as float32 (768)."""
    picture = on_white(Image.open(io.BytesIO(data)))
    return np.asarray(picture.resize((16, 16), Image.Resampling.BOX), dtype=np.float32).reshape(-1)


def near_duplicates(pictures: Iterable[bytes], others: Iterable[bytes]) -> list[bool]:
    """Say for each picture whether one of `others` looks the same."""
    stack = np.stack([thumbnail(data) for data in others])
    return [bool(np.abs(stack - thumbnail(data)).mean(axis=1).min() < NEAR_DUPLICATE) for data in pictures]
