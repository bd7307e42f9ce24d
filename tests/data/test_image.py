import contextlib
import io
import struct
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.image import ImageSpec, picture_key, prepare_crops, prepare_image
from data.sample import BadRecord

SPEC = ImageSpec(size_px=48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def smooth(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, channels), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def stored(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def fit_by_pil(picture: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Letterbox with PIL's own resize: slow, obviously right."""
    scale = spec.size_px / max(picture.size)
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (spec.size_px, spec.size_px), spec.background)
    canvas.paste(small, ((spec.size_px - small.width) // 2, (spec.size_px - small.height) // 2))
    return np.asarray(canvas).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(48, 48), (100, 60), (31, 20), (20, 90), (300, 1)])
def test_the_picture_is_the_one_pil_makes(size: tuple[int, int]) -> None:
    image = prepare_image(stored(smooth(*size)), SPEC)
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()  # as decoders leave them
    difference = np.abs(
        image.numpy().astype(int) - (fit_by_pil(smooth(*size), SPEC) if min(size) > 1 else image.numpy())
    )
    assert difference.max() <= 2  # torch's fixed-point weights are rounded in another place


def test_squash_fills_the_square() -> None:
    spec = ImageSpec(size_px=48, mean=SPEC.mean, std=SPEC.std, fit="squash")
    wanted = np.asarray(smooth(100, 30).resize((48, 48), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(prepare_image(stored(smooth(100, 30)), spec).numpy().astype(int) - wanted).max() <= 2


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("PNG", {})])
def test_every_format_gives_nearly_the_same_picture(kind: str, options: dict[str, object]) -> None:
    image = prepare_image(stored(smooth(96, 96), kind, **options), SPEC)
    assert (image.float() - prepare_image(stored(smooth(96, 96)), SPEC).float()).abs().mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    picture = smooth(64, 64).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    image = prepare_image(stored(picture, "JPEG" if mode == "CMYK" else "PNG"), SPEC)
    grey = prepare_image(stored(smooth(64, 64).convert("L")), SPEC).float()
    assert image.shape == (3, 48, 48)
    if mode != "1":
        assert (image.float().mean(0) - grey.mean(0)).abs().mean() < 30
    if mode in ("L", "LA", "I;16"):
        assert (image.float() - grey).abs().max() <= 2


def test_transparency_shows_the_background() -> None:
    picture = Image.new("RGBA", (48, 48), (255, 0, 0, 0))
    spec = ImageSpec(size_px=48, mean=SPEC.mean, std=SPEC.std, background=(10, 20, 30))
    for image in (picture, picture.quantize()):
        assert prepare_image(stored(image), spec).amax((1, 2)).tolist() == [10, 20, 30]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = prepare_image(stored(smooth(90, 30), exif=exif), SPEC)
    assert torch.equal(image, prepare_image(stored(smooth(90, 30).transpose(Image.Transpose.ROTATE_270)), SPEC))


def test_a_copy_is_a_function_of_bytes_and_number() -> None:
    data = stored(smooth(64, 64))
    assert torch.equal(prepare_image(data, SPEC, 3), prepare_image(data, SPEC, 3))
    copies = [prepare_image(data, SPEC, number) for number in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(copies) for b in copies[:i])
    assert all((copy.float() - copies[0].float()).abs().mean() < 70 for copy in copies)


def test_a_copy_keeps_left_and_right() -> None:
    picture = Image.new("RGB", (64, 64), (255, 255, 255))
    picture.paste((0, 0, 0), (4, 24, 24, 40))
    for number in range(1, 12):
        dark = 255 - prepare_image(stored(picture), SPEC, number).float().mean(0)
        dark = (dark - dark.median()).clamp(min=60) - 60
        assert dark[:, :24].sum() > 10 * dark[:, 24:].sum()


def test_cut_outs_get_light_backgrounds_in_copies() -> None:
    data = stored(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    colours = {tuple(prepare_image(data, SPEC, number)[:, 24, 24].tolist()) for number in range(1, 6)}
    assert len(colours) == 5
    assert min(min(colour) for colour in colours) > 120


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def test_a_huge_picture_is_refused_by_its_header() -> None:
    data = png_bomb(20_000, 20_000)
    start = time.perf_counter()
    with pytest.raises(BadRecord, match=r"20000 x 20000.*64 megapixels"):
        prepare_image(data, SPEC)
    assert time.perf_counter() - start < 0.05


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_picture_is_refused_at_every_length(kind: str) -> None:
    data = stored(smooth(64, 64), kind)
    for end in range(0, len(data) - 20, 1 + len(data) // 40):
        with pytest.raises(BadRecord):
            prepare_image(data[:end], SPEC)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_bytes_give_a_picture_or_a_bad_record(kind: str) -> None:
    data, chance = stored(smooth(40, 40), kind), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        damaged[chance.integers(len(data))] = chance.integers(256)
        with contextlib.suppress(BadRecord):
            assert prepare_image(bytes(damaged), SPEC).shape == (3, 48, 48)


@pytest.mark.parametrize(
    "data", [b"", b"%!PS-Adobe-3.0 EPSF", b"GIF89a" + bytes(50), b"\xff\xd8\xff", b"RIFF1234WEBP", bytes(99)]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadRecord, match=r"is empty|JPEG, PNG, WEBP"):
        prepare_image(data, SPEC)


def test_normalising_maps_each_channel() -> None:
    image = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    wanted = torch.stack([(image[c] / 255 - SPEC.mean[c]) / SPEC.std[c] for c in range(3)])
    torch.testing.assert_close(SPEC.normalise(image), wanted)
    torch.testing.assert_close(SPEC.normalise(image[None])[0], wanted)


def test_the_same_bytes_have_the_same_name() -> None:
    assert picture_key(b"a") == picture_key(b"a") != picture_key(b"b")
    assert len(picture_key(b"a")) == 32


CORNERS = {(0, 0): (255, 0, 0), (0, 1): (0, 255, 0), (1, 0): (0, 0, 255), (1, 1): (0, 0, 0)}


def quarters(width: int, height: int) -> bytes:
    """Each quarter of the picture has a colour of its own."""
    picture = Image.new("RGB", (width, height))
    for (down, across), colour in CORNERS.items():
        box = (across * width // 2, down * height // 2, (across + 1) * width // 2, (down + 1) * height // 2)
        picture.paste(colour, box)
    return stored(picture)


def assert_quarters(pixels: torch.Tensor) -> None:
    """The middle of each quarter of the pixels has its colour."""
    _, height, width = pixels.shape
    for (down, across), colour in CORNERS.items():
        assert pixels[:, height * (1 + 2 * down) // 4, width * (1 + 2 * across) // 4].tolist() == list(colour)


NATIVE = ImageSpec(size_px=48, mean=SPEC.mean, std=SPEC.std, fit="native", max_pixels=48 * 96, multiple_px=8)
TILES = ImageSpec(size_px=48, mean=SPEC.mean, std=SPEC.std, fit="tiles", max_tiles=4, background=(9, 9, 9))


@pytest.mark.parametrize(
    ("size", "wanted"), [((64, 40), (40, 64)), ((30, 21), (24, 32)), ((400, 100), (32, 144)), ((3, 2), (8, 8))]
)
def test_native_fills_a_canvas_of_the_pictures_own_shape(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    (pixels,) = prepare_crops(quarters(*size), NATIVE)
    assert pixels.shape == (3, *wanted)
    if min(size) > 3:
        assert_quarters(pixels)
    else:
        assert pixels[:, 0, 0].argmax() == 0  # red at its corner


def test_native_keeps_a_picture_that_fits_pixel_by_pixel() -> None:
    picture = smooth(64, 48)
    (pixels,) = prepare_crops(stored(picture), NATIVE)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(picture))


def test_tiles_are_the_pieces_of_the_picture_behind_a_small_one_of_it() -> None:
    picture = smooth(96, 96)
    whole, *tiles = prepare_crops(stored(picture), TILES)
    assert torch.equal(whole, prepare_image(stored(picture), SPEC))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert [tile.shape for tile in tiles] == [(3, 48, 48)] * 4
    for place, tile in enumerate(tiles):
        down, across = divmod(place, 2)
        assert torch.equal(tile, pixels[:, 48 * down : 48 * (down + 1), 48 * across : 48 * (across + 1)])
        assert tile.is_contiguous()


def test_tiles_keep_the_aspect_ratio_and_show_the_background_beside_it() -> None:
    whole, *tiles = prepare_crops(quarters(160, 60), TILES)  # 128 x 48 in the middle of 144 x 48
    assert len(tiles) == 3
    row = torch.cat(tiles, dim=2)
    assert row[:, 24, 0].tolist() == [9, 9, 9]
    assert_quarters(row[:, :, 8:136])
    assert_quarters(whole[:, 15:33])
    assert whole[:, 0, 0].tolist() == [9, 9, 9]


def test_a_picture_of_one_tile_is_the_letterboxed_one() -> None:
    (pixels,) = prepare_crops(stored(smooth(50, 30)), TILES)
    assert torch.equal(pixels, prepare_image(stored(smooth(50, 30)), replace(SPEC, background=(9, 9, 9))))
    with pytest.raises(ValueError, match="makes 5 crops of this picture; use prepare_crops"):
        prepare_image(stored(smooth(96, 96)), TILES)


def test_an_altered_picture_is_altered_alike_on_every_canvas() -> None:
    data = quarters(96, 96)
    for number in range(1, 8):
        whole, *tiles = prepare_crops(data, TILES, number)
        canvas = torch.cat([torch.cat(tiles[:2], dim=2), torch.cat(tiles[2:], dim=2)], dim=1).float()
        small = torch.nn.functional.avg_pool2d(canvas, 2)
        difference = (small - whole.float()).abs()
        assert difference.mean() < 8  # edges differ by the resampling, a shift by a share of another side would by more


@pytest.mark.parametrize("spec", [NATIVE, TILES], ids=lambda spec: spec.fit)
def test_an_altered_copy_keeps_the_size(spec: ImageSpec) -> None:
    data = stored(smooth(100, 40))
    shapes = [[crop.shape for crop in prepare_crops(data, spec, number)] for number in range(3)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert not torch.equal(prepare_crops(data, spec, 1)[0], prepare_crops(data, spec, 2)[0])


@pytest.mark.parametrize("spec", [NATIVE, TILES], ids=lambda spec: spec.fit)
def test_a_picture_on_its_side_is_fitted_upright(spec: ImageSpec) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = prepare_crops(stored(smooth(150, 40), exif=exif), spec)
    upright = prepare_crops(stored(smooth(150, 40).transpose(Image.Transpose.ROTATE_270)), spec)
    assert all(torch.equal(one, two) for one, two in zip(turned, upright, strict=True))
