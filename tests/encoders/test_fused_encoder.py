"""Encoders side by side: grids, widths, and what each of them sees."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from data.image import ImageSpec
from encoders.check import check_encoder
from encoders.fused_encoder import FusedEncoder
from encoders.patch_encoder import PatchEncoder
from encoders.protocol import encoder_key
from encoders.timm_encoder import TimmEncoder

FINE = {"name": "encoders.PatchEncoder", "size_px": 64, "patch_px": 8, "width": 5}
COARSE = {"name": "encoders.PatchEncoder", "size_px": 96, "patch_px": 24, "width": 3}


class Bluish(PatchEncoder):
    """Patches of pictures normalised in another way."""

    def __init__(self, size_px: int = 32) -> None:
        super().__init__(size_px=size_px, patch_px=16, width=4)
        self.spec = ImageSpec(size_px=size_px, mean=(0.1, 0.2, 0.6), std=(0.3, 0.2, 0.4), interpolation="bilinear")


def bluish(size_px: int = 32) -> Any:
    return Bluish(size_px)


@pytest.fixture
def other_mean(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    import encoders.patch_encoder

    monkeypatch.setattr(encoders.patch_encoder, "bluish", bluish, raising=False)
    return {"name": "encoders.patch_encoder.bluish"}


def test_a_fused_encoder_passes_the_check() -> None:
    encoder = FusedEncoder([FINE, COARSE])
    assert (encoder.width, encoder.grid(64, 64), encoder.spec.size_px) == (8, (8, 8), 64)
    check_encoder(encoder)


def test_an_encoder_of_the_same_pictures_is_seen_unchanged_and_a_coarser_one_is_resampled() -> None:
    encoder = FusedEncoder([FINE, COARSE])
    image = torch.randn(3, 64, 64).clamp(-1, 1)
    vectors = encoder.encode([image]).vectors
    fine, coarse = encoder.parts
    assert torch.equal(vectors[:, :5], fine.encode([image]).vectors)  # type: ignore[operator]
    larger = functional.interpolate(image[None], (96, 96), mode="bicubic", antialias=True).clamp(-1, 1)
    grid = coarse.encode([larger[0]]).vectors.T.reshape(1, 3, 4, 4)  # type: ignore[operator]
    expected = functional.interpolate(grid, (8, 8), mode="bilinear")[0].flatten(1).T
    torch.testing.assert_close(vectors[:, 5:], expected, rtol=0, atol=1e-5)


def test_each_encoder_gets_the_pixels_by_its_own_mean_std_and_size(other_mean: dict[str, Any]) -> None:
    encoder = FusedEncoder([FINE, other_mean])
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    vectors = encoder.encode([encoder.spec.normalise(pixels)]).vectors
    part: Any = encoder.parts[1]
    small = functional.interpolate(pixels[None] / 255, (32, 32), mode="bilinear", antialias=True)[0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (part.spec.mean, part.spec.std))
    alone = part.encode([(small - mean) / std]).vectors.T.reshape(1, 4, 2, 2)
    expected = functional.interpolate(alone, (8, 8), mode="bilinear")[0].flatten(1).T
    torch.testing.assert_close(vectors[:, 5:], expected, rtol=0, atol=1e-5)


def test_pictures_of_other_sizes_keep_their_aspect_up_to_each_encoders_patch() -> None:
    encoder = FusedEncoder([FINE, COARSE])
    assert [encoder.part_size(index, 64, 128) for index in (0, 1)] == [(64, 128), (96, 192)]
    assert encoder.part_size(1, 44, 196) == (72, 288)  # 66 and 294 pixels, to the nearest multiples of 24
    images = [torch.randn(3, *size) for size in ((64, 64), (48, 208), (64, 64))]
    features = encoder.encode(images)
    assert features.grids.tolist() == [list(encoder.grid(*image.shape[1:])) for image in images]
    for image, vectors in zip(images, features.split(), strict=True):
        torch.testing.assert_close(encoder.encode([image]).vectors, vectors, rtol=0, atol=1e-5)


def test_towers_without_weights_are_materialised_together_and_followed_by_the_key() -> None:
    encoder = FusedEncoder(["timm:test_vit", {"name": "timm:test_resnet", "layer": -2}], size_px=64)
    assert all(parameter.is_meta for parameter in encoder.parameters())
    with pytest.raises(ValueError, match="no weights yet"):
        encoder.encode([])
    encoder.requires_grad_(False).materialise().eval()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    key = encoder.weights_key()
    images = list(torch.randn(2, 3, 64, 64))
    with torch.no_grad():
        expected = encoder.encode(images).vectors
        torch.testing.assert_close(encoder.folded().encode(images).vectors, expected, rtol=1e-4, atol=1e-4)
        part = encoder.parts[1]
        assert isinstance(part, TimmEncoder)
        next(part.parameters()).add_(1)
    assert encoder_key(encoder) != key


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        (["timm:test_vit"], "two or more"),
        ([{"width": 3}, FINE], "without `name`: {'width': 3}"),
        (["timm:test_vit", "timm:no_such"], "timm .* has no model"),
    ],
)
def test_what_cannot_be_fused_is_refused(encoders: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusedEncoder(encoders)
