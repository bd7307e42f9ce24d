"""What the library encoders share: sizes that are chosen, runs without weights."""

import pytest
import torch

from encoders.library_encoder import chosen_size
from encoders.protocol import from_name


@pytest.mark.parametrize("size_px", [0, -224, "224", 224.0, True])
def test_a_size_that_is_no_number_of_pixels_is_refused(size_px: object) -> None:
    with pytest.raises(ValueError, match="size_px is the side of the square picture in pixels, an int of 1 or more"):
        chosen_size(size_px, 384)


def test_without_a_size_the_models_own_is_taken() -> None:
    assert (chosen_size(None, 384), chosen_size(224, 384)) == (384, 224)


@pytest.mark.parametrize(
    "setting",
    [
        {"name": "timm:test_vit", "size_px": 64},
        {"name": "encoders.FusedEncoder", "encoders": ["timm:test_vit", "timm:test_resnet"], "size_px": 64},
    ],
)
def test_a_run_on_the_meta_device_tells_shapes_without_weights(setting: dict) -> None:
    encoder = from_name(**setting)
    features = encoder.encode([torch.empty(3, 64, 64, device="meta"), torch.empty(3, 32, 64, device="meta")])
    num_vectors = sum(rows * columns for rows, columns in features.grids.tolist())
    assert features.vectors.is_meta
    assert features.vectors.shape == (num_vectors, encoder.width)
    with pytest.raises(ValueError, match="no weights yet"):
        encoder.encode([torch.zeros(3, 64, 64)])
