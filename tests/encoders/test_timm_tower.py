"""timm's maps beside timm's own forward pass: prefix tokens, layers, naflexvit at any size, folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encoders.check import check_encoder
from encoders.timm_encoder import TimmEncoder, timm_spec

# A class token and registers, one with neither, relative positions, a distillation token.
VITS = ["test_vit", "test_vit2", "test_vit3", "test_vit_relpos", "deit_tiny_distilled_patch16_224"]
NAFLEX = "naflexvit_so150m2_patch16_reg1_gap"


def tokens_of(vectors: Tensor) -> Tensor:
    """A map of timm's, NCHW, as vectors row by row."""
    return vectors[0].flatten(1).T


@pytest.mark.long
@pytest.mark.parametrize("name", VITS)
def test_a_vits_vectors_are_timms_features_without_whatever_stands_before_the_patches(name: str) -> None:
    encoder = TimmEncoder(name).materialise().eval()
    size = encoder.spec.size_px
    image = torch.randn(3, size, size)
    tokens = encoder.model.forward_features(image[None])[0]
    expected = tokens[encoder.model.num_prefix_tokens :]
    torch.testing.assert_close(encoder.encode([image]).vectors, expected, rtol=0, atol=1e-6)
    assert len(tokens) - len(expected) == encoder.model.num_prefix_tokens


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_several_layers_are_those_layers_side_by_side(name: str) -> None:
    both = TimmEncoder(name, size_px=64, layer=[-1, -2]).materialise().eval()
    image = torch.randn(3, 64, 64)
    maps = both.model.forward_intermediates(image[None], indices=2, norm=True, intermediates_only=True)
    earlier, last = (
        torch.nn.functional.interpolate(one, maps[0].shape[2:], mode="bilinear") if one is maps[1] else one
        for one in maps
    )
    expected = torch.cat([tokens_of(last), tokens_of(earlier)], dim=1)
    assert both.width == expected.shape[1]
    assert both.grid(64, 64) == tuple(maps[0].shape[2:])
    torch.testing.assert_close(both.encode([image]).vectors, expected, rtol=0, atol=1e-6)


def test_a_plain_vit_built_for_one_size_refuses_others_by_its_grid_alone() -> None:
    encoder = TimmEncoder("samvit_base_patch16_224")
    assert encoder.grid(224, 224) == (14, 14)
    with pytest.raises(ValueError, match="built for 224 x 224 pixels"):
        encoder.grid(112, 112)


def test_a_model_built_for_one_size_says_so_without_weights() -> None:
    encoder = TimmEncoder("mvitv2_tiny", size_px=64)
    assert encoder.grid(64, 64) == (2, 2)
    with pytest.raises(ValueError, match="takes no picture of 64 x 96 pixels: it was built for 64 x 64"):
        encoder.grid(64, 96)  # its position tables end there, which a run without weights would not notice


def test_an_earlier_layer_of_a_vit_is_what_left_it_without_the_final_norm() -> None:
    import timm

    whole: Any = timm.create_model("test_vit", dynamic_img_size=True).eval()
    encoder = TimmEncoder("test_vit", layer=-2).materialise()
    encoder.model.load_state_dict(whole.state_dict(), strict=False)
    image = torch.randn(3, 64, 96)
    (expected,) = whole.forward_intermediates(image[None], indices=[-2], norm=False, intermediates_only=True)
    vectors = encoder.eval().encode([image]).vectors
    torch.testing.assert_close(vectors, tokens_of(expected), rtol=0, atol=1e-6)
    assert "norm.weight" not in encoder.model.state_dict()


@pytest.fixture(scope="module")
def naflex() -> TimmEncoder:
    """The first block only: the smallest naflexvit has 12."""
    return TimmEncoder(NAFLEX, size_px=64, layer=0).materialise().eval()


def naflex_alone(model: torch.nn.Module, image: Tensor) -> Tensor:
    """timm's other way in: patches with coordinates, as its native-resolution loader gives them."""
    rows, columns = image.shape[1] // 16, image.shape[2] // 16
    patches = image.reshape(3, rows, 16, columns, 16).permute(1, 3, 2, 4, 0).reshape(1, rows * columns, 16 * 16 * 3)
    coordinates = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))[None]
    valid = torch.ones(1, rows * columns, dtype=torch.bool)
    batch = {"patches": patches, "patch_coord": coordinates, "patch_valid": valid}
    (found,) = model.forward_intermediates(  # type: ignore[operator]
        batch, indices=[0], output_fmt="NLC", intermediates_only=True
    )
    return found[0]


@pytest.mark.long
def test_naflexvit_takes_every_multiple_of_its_patch_and_each_picture_as_if_alone(naflex: TimmEncoder) -> None:
    sizes = [(64, 64), (32, 208), (208, 32), (64, 64), (16, 16), (112, 80)]
    images = [torch.randn(3, *size) for size in sizes]
    assert naflex.tower.patch_px == 16
    assert [naflex.grid(*size) for size in sizes] == [(height // 16, width // 16) for height, width in sizes]
    with torch.no_grad():
        features = naflex.encode(images)
        for image, vectors in zip(images, features.split(), strict=True):
            torch.testing.assert_close(vectors, naflex_alone(naflex.model, image), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="32 x 40 pixels: both sides must be multiples of 16"):
        naflex.grid(32, 40)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "size", "grid", "patch_px"),
    [
        ("test_vit", (64, 96), (4, 6), 16),
        ("vit_tiny_r_s16_p8_224", (64, 96), (2, 3), None),  # a hybrid: convolutions, then patches of 1
        ("test_coatnet", (64, 64), (2, 2), None),
        ("vit_tiny_patch16_224", (2000, 496), (125, 31), 16),
    ],
)
def test_the_grid_by_arithmetic_is_the_grid_of_a_run(
    name: str, size: tuple[int, int], grid: tuple[int, int], patch_px: int | None
) -> None:
    encoder = TimmEncoder(name, size_px=64)
    assert (encoder.grid(*size), encoder.tower.patch_px) == (grid, patch_px)
    assert encoder.map_shape(encoder.model, *size)[2:] == grid


@pytest.mark.parametrize(
    ("name", "fit", "interpolation"),
    [
        ("maxvit_tiny_tf_384.in1k", "squash", "bicubic"),
        ("vit_base_patch16_clip_224.laion2b", "letterbox", "bicubic"),
        ("resnet18.tv_in1k", "letterbox", "bilinear"),
        ("tf_efficientnet_lite0", "letterbox", "bicubic"),
    ],
)
def test_pictures_are_prepared_as_the_model_says_but_never_cut(name: str, fit: str, interpolation: str) -> None:
    import timm

    spec = timm_spec(name, None)
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    assert (spec.fit, spec.interpolation) == (fit, interpolation)
    assert (spec.mean, spec.std, spec.size_px) == (config.mean, config.std, config.input_size[-1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A model with its classifier, in a folder as timm writes it."""
    import timm

    folder = tmp_path_factory.mktemp("timm") / "mine"
    model = timm.create_model("test_vit").eval()
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    return model, folder


def test_a_folder_that_timm_saved_gives_the_same_features(saved: tuple[torch.nn.Module, Path]) -> None:
    model, folder = saved
    encoder = TimmEncoder("test_vit", weights=str(folder)).materialise()
    check_encoder(encoder)
    image = torch.randn(3, 160, 160)
    expected = model.forward_features(image[None])[0, model.num_prefix_tokens :]  # type: ignore[operator]
    torch.testing.assert_close(encoder.eval().encode([image]).vectors, expected, rtol=0, atol=1e-6)


def test_a_folder_of_another_model_or_other_pictures_is_refused(
    saved: tuple[torch.nn.Module, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="holds a test_vit, not a test_resnet; name the encoder timm:test_vit"):
        TimmEncoder("test_resnet", weights=str(saved[1])).materialise()
    config = json.loads((saved[1] / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"trained with mean \(0\.1, 0\.2, 0\.3\)"):
        TimmEncoder("test_vit", weights=str(tmp_path)).materialise()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no weights in the folder .* one of model\.safetensors"):
        TimmEncoder("test_vit", weights=str(tmp_path)).materialise()
