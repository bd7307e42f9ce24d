"""Made shards for `vlm bench data`: photographs as a JPEG decoder sees them, each with words.

Noise whose amplitude falls with frequency, as that of photographs does: steep enough (f to the power -1.5) that at quality 88 a
picture of 0.38 megapixels takes 66 KB, as in the usual web collections. The same numbers give the same bytes.
"""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data.shards import write_manifest, write_shard

SIDES_PX = ((750, 500), (500, 750), (640, 600), (612, 612))  # width and height
QUALITY = 88
CONTRAST = 35.0  # standard deviation of the values
STEEPNESS = 1.5  # power of the frequency by which the amplitude falls
PER_SHARD = 200
WORDS = "a the of in on beside two red small old wooden house dog street water light under with and tall"


def made_shards(folder: Path, pictures: int, progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of shards with so many records of one picture each; made once and kept.

    Args:
        folder: for all data of this benchmark.
        progress: told how many of how many pictures are made.
    """
    kept = folder / f"pictures-{pictures}"
    if (kept / "dataset.json").is_file():
        return kept
    partial = folder / f".{kept.name}.{os.getpid()}.part"
    try:
        for start in range(0, pictures, PER_SHARD):
            write_shard(partial / f"{start // PER_SHARD:04}.tar", _records(start, pictures, progress))
        write_manifest(partial)
        os.replace(partial, kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def _records(
    start: int, pictures: int, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for number in range(start, min(start + PER_SHARD, pictures)):
        yield f"{number:06}", {"json": json.dumps(words_of(number)).encode(), "jpg": picture(number)}
        if progress is not None:
            progress(number + 1, pictures)


def words_of(number: int) -> dict[str, object]:
    """Half of the records are captions, half are conversations."""
    chance = np.random.default_rng([number, 1])

    def words(least: int, most: int) -> str:
        return " ".join(chance.choice(WORDS.split(), int(chance.integers(least, most))))

    image = {"type": "image", "image": "jpg"}
    if number % 2:
        return {"id": f"caption-{number}", "content": [image, {"type": "text", "text": words(10, 70)}]}
    messages: list[dict[str, object]] = [
        {"role": "user", "content": [image, {"type": "text", "text": words(5, 25)}]},
        {"role": "assistant", "content": words(5, 60)},
        {"role": "user", "content": words(4, 15)},
        {"role": "assistant", "content": words(5, 60)},
    ]
    return {"id": f"talk-{number}", "messages": messages}


def picture(number: int) -> bytes:
    """A JPEG of coloured 1/f noise."""
    chance = np.random.default_rng([number, 0])
    width, height = SIDES_PX[number % len(SIDES_PX)]
    file = io.BytesIO()
    Image.fromarray(noise(chance, height, width)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def noise(chance: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Three channels that share most of their detail, as those of photographs do."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = np.maximum(np.hypot(rows, columns), 1 / max(height, width)) ** -STEEPNESS
    fields = np.fft.irfft2(np.fft.rfft2(chance.standard_normal((4, height, width))) * amplitude, (height, width))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    channels = 128 + CONTRAST * (0.95 * fields[:1] + 0.3 * fields[1:])
    return np.ascontiguousarray(channels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
