"""timm models as encoders: grids, prefix tokens, weights, folding."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from encoders.check import check_encoder
from encoders.timm_encoder import TimmEncoder

pytestmark = pytest.mark.long

# ViTs with a class token, a distillation token, registers; convolutional; and two whose maps are NHWC inside.
KINDS = [
    ("vit_tiny_patch16_224", 32, 192, (2, 2)),
    ("deit_tiny_distilled_patch16_224", 32, 192, (2, 2)),
    ("vit_small_patch14_reg4_dinov2", 28, 384, (2, 2)),
    ("test_efficientnet", 64, 64, (2, 2)),
    ("test_convnext", 64, 64, (2, 2)),
    ("test_resnet", 64, 96, (2, 2)),
    ("mambaout_femto", 64, 288, (2, 2)),
    ("swin_tiny_patch4_window7_224", 224, 768, (7, 7)),
]


@pytest.mark.parametrize(("name", "size_px", "width", "grid"), KINDS)
def test_every_kind_of_model_gives_its_grid(name: str, size_px: int, width: int, grid: tuple[int, int]) -> None:
    encoder = TimmEncoder(name, size_px=size_px)
    assert (encoder.width, encoder.grid(size_px, size_px)) == (width, grid)
    assert encoder.map_shape(encoder.model, size_px, size_px) == (1, width, *grid)
    assert all(parameter.is_meta for parameter in encoder.parameters())
    check_encoder(encoder.materialise())


def test_the_demos_encoder_gives_320_channels_at_stride_32() -> None:
    encoder = TimmEncoder("tf_efficientnet_lite0", size_px=128)
    assert (encoder.width, encoder.grid(128, 128), encoder.grid(130, 256)) == (320, (4, 4), (5, 8))
    assert (encoder.spec.mean, encoder.spec.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_vits_vectors_are_its_normed_patch_tokens_without_the_prefix(name: str) -> None:
    encoder = TimmEncoder(name, size_px=32).materialise().eval()
    image = torch.randn(3, 32, 32)
    tokens = encoder.model.forward_features(image[None])[0]
    torch.testing.assert_close(encoder.encode([image]).vectors, tokens[encoder.model.num_prefix_tokens :])


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "vit_tiny_patch16_224"])
def test_mixed_sizes_in_a_batch_equal_each_picture_alone(name: str) -> None:
    encoder = TimmEncoder(name, size_px=64).materialise().eval()
    images = [torch.randn(3, *size) for size in ((64, 64), (96, 32), (64, 64), (32, 96))]
    features = encoder.encode(images)
    assert features.grids.tolist() == [list(encoder.grid(*image.shape[1:])) for image in images]
    for image, vectors in zip(images, features.split(), strict=True):
        torch.testing.assert_close(encoder.encode([image]).vectors, vectors, rtol=1e-4, atol=1e-4)


def test_pieces_without_gradients_equal_the_whole_batch() -> None:
    encoder = TimmEncoder("test_efficientnet", size_px=256).materialise().eval()
    images = list(torch.randn(6, 3, 256, 256))
    whole = encoder.encode(images).vectors
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(images).vectors, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "resnetv2_18"])
def test_folding_batch_norms_keeps_the_features(name: str) -> None:
    encoder = TimmEncoder(name, size_px=64).materialise().eval()
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    images = list(torch.randn(2, 3, 64, 64))
    with torch.no_grad():
        fast, vectors = encoder.folded(), encoder.encode(images).vectors
        assert sum(isinstance(module, nn.BatchNorm2d) for module in fast.modules()) < len(norms)
        largest = float(vectors.abs().max())
        torch.testing.assert_close(fast.encode(images).vectors, vectors, rtol=0, atol=1e-4 * largest)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()) == len(norms)


def test_an_earlier_layer_is_another_map_without_the_layers_after_it() -> None:
    last, earlier = TimmEncoder("test_resnet", size_px=64), TimmEncoder("test_resnet", size_px=64, layer=-2)
    assert earlier.grid(64, 64) == (4, 4)
    assert len(list(earlier.parameters())) < len(list(last.parameters()))
    check_encoder(earlier.materialise())


def test_a_size_the_model_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="no feature grid for 8 x 8 pixels"):
        TimmEncoder("vit_tiny_patch16_224", size_px=8)
    with pytest.raises(ValueError, match="no feature grid for 64 x 64 pixels at layer 9"):
        TimmEncoder("test_resnet", size_px=64, layer=9)
    with pytest.raises(ValueError, match="takes no picture of 32 x 40 pixels"):
        TimmEncoder("vit_tiny_patch16_224", size_px=32).grid(32, 40)


def test_encoding_before_the_weights_exist_is_refused() -> None:
    encoder = TimmEncoder("test_resnet")
    with pytest.raises(ValueError, match="call materialise"):
        encoder.encode([])
    with pytest.raises(ValueError, match="call materialise"):
        encoder.weights_key()


def test_freezing_before_materialise_is_kept() -> None:
    encoder = TimmEncoder("test_resnet")
    encoder.requires_grad_(False).eval().materialise()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_the_cache_key_follows_name_size_layer_and_weights() -> None:
    def key(seed: int, **settings: int) -> str:
        torch.manual_seed(seed)
        return TimmEncoder("test_efficientnet", **settings).materialise().weights_key()  # type: ignore[arg-type]

    keys = [key(0), key(1), key(0, size_px=96), key(0, layer=-2)]
    assert len(set(keys)) == 4
    assert key(0) == keys[0]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_a_file_are_loaded_with_or_without_the_classifier(tmp_path: Path, suffix: str) -> None:
    import timm

    model = timm.create_model("test_resnet").eval()
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_file({key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}, path)
    encoder = TimmEncoder("test_resnet", weights=str(path)).materialise().eval()
    image = torch.randn(3, 64, 64)
    expected = model.forward_features(image[None])[0].flatten(1).T
    torch.testing.assert_close(encoder.encode([image]).vectors, expected)


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    state = TimmEncoder("test_resnet").materialise().model.state_dict()
    state["bn1.weight"] = torch.zeros(5)
    state["head_of_mine.weight"] = state.pop("conv1.0.weight")
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"1 missing \(conv1.0.weight\); 1 unexpected \(head_of_mine.weight\); .*bn1.weight is \(5,\)"
    ):
        TimmEncoder("test_resnet", weights=str(tmp_path / "other.pt")).materialise()


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="save a plain state dict"):
        TimmEncoder("test_resnet", weights=str(tmp_path / "whole.pt")).materialise()


def test_a_checkpoint_can_fill_the_model_without_its_first_weights() -> None:
    encoder = TimmEncoder("test_resnet", weights="/gone.pt")
    encoder.materialise(load_weights=False)
    with pytest.raises(ValueError, match=r"no weights at /gone\.pt"):
        encoder.materialise()


def test_the_hub_without_a_network_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="could not get the weights of test_resnet"):
        TimmEncoder("test_resnet", weights="hub").materialise()
