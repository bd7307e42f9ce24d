"""Names and packing of an encoder."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data.image import ImageSpec
from encoders.check import check_encoder
from encoders.patch_encoder import PatchEncoder
from encoders.protocol import Features, VisionEncoder, encode_by_size, encoder_key, from_name

MY_MODULE = """
import torch
from torch import nn
from data.image import ImageSpec
from encoders import encode_by_size

class MyEncoder(nn.Module):
    def __init__(self, width: int = 24):
        super().__init__()
        self.spec = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.width = width
        self.conv = nn.Conv2d(3, width, 8, stride=8)

    def grid(self, height, width):
        return height // 8, width // 8

    def encode(self, images):
        return encode_by_size(self, images, self.conv)

def wide():
    return MyEncoder(width=48)

def broken():
    return nn.Linear(2, 2)
"""


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_vision.py").write_text(MY_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_vision", raising=False)
    return "my_vision"


def test_importing_encoders_imports_no_heavy_package() -> None:
    code = "import encoders, sys; assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_class_of_fifteen_lines_in_the_users_own_module_is_an_encoder(my_module: str) -> None:
    encoder = from_name(f"{my_module}.MyEncoder", width=16)
    assert encoder.width == 16
    check_encoder(encoder)


def test_a_function_that_returns_an_encoder_is_a_name_too(my_module: str) -> None:
    assert from_name(f"{my_module}.wide").width == 48


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("PatchEncoder", {}, "nor an import path; write encoders.PatchEncoder"),
        ("clip:vit", {}, "unknown encoder source 'clip'"),
        ("no_such_module.MyEncoder", {}, "no module 'no_such_module'"),
        ("my_vision.Other", {}, "has no 'Other'"),
        ("my_vision.broken", {}, "lacks spec, width, grid, encode"),
        ("my_vision.MyEncoder", {"hight": 3}, "unexpected keyword argument 'hight'; it takes"),
        ("timm:vit_tinny_patch16_224", {}, "near: vit_tiny_patch16_224"),
        ("timm:resnet18", {"weights": "package"}, "it may be tf_efficientnet_lite0"),
        ("timm:resnet18", {"weights": "hubb"}, "weights must be hub, package or"),
    ],
)
def test_a_wrong_name_is_refused_with_what_to_do(my_module: str, name: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_name(name, **settings)


def test_vectors_are_packed_in_the_order_of_the_images_and_row_by_row() -> None:
    encoder = PatchEncoder(size_px=8, patch_px=4, width=5)
    images = [torch.randn(3, 8, 8), torch.randn(3, 12, 4), torch.randn(3, 8, 8)]
    features = encoder.encode(images)
    assert features.grids.tolist() == [[2, 2], [3, 1], [2, 2]]
    by_hand = [
        encoder.project.weight.flatten(1) @ image[:, row : row + 4, column : column + 4].flatten()
        + encoder.project.bias
        for image in images
        for row in range(0, image.shape[1], 4)
        for column in range(0, image.shape[2], 4)
    ]
    torch.testing.assert_close(features.vectors, torch.stack(by_hand))
    assert [len(part) for part in features.split()] == [4, 3, 4]


def test_the_key_follows_the_weights_and_the_picture_preparation() -> None:
    encoder = PatchEncoder(size_px=32, width=8)
    key = encoder_key(encoder)
    assert encoder_key(encoder) == key
    encoder.spec = ImageSpec(size_px=32, mean=(0.4, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    other_spec = encoder_key(encoder)
    nn.init.zeros_(encoder.project.bias)
    assert len({key, other_spec, encoder_key(encoder)}) == 3


def test_the_template_is_a_vision_encoder_by_type() -> None:
    assert isinstance(PatchEncoder(), VisionEncoder)


def test_equal_sizes_run_as_one_batch() -> None:
    encoder = PatchEncoder(size_px=32, width=8)
    batches: list[int] = []

    def note(batch: Tensor) -> Tensor:
        batches.append(len(batch))
        return encoder.project(batch)

    encode_by_size(encoder, [torch.randn(3, 32, 32), torch.randn(3, 16, 32), torch.randn(3, 32, 32)], note)
    assert batches == [2, 1]


class NormedPatches(PatchEncoder):
    """Patches behind a batch norm at rest, as in a frozen or a fine-tuned convolutional tower."""

    def __init__(self) -> None:
        super().__init__(size_px=24, patch_px=8, width=6)
        self.norm = nn.BatchNorm2d(6)
        nn.init.normal_(self.norm.weight)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.double().eval()

    def encode(self, images: Sequence[Tensor]) -> Features:
        return encode_by_size(self, images, lambda batch: self.norm(self.project(batch)))


def test_one_image_has_the_gradient_that_it_has_among_others() -> None:
    torch.manual_seed(0)
    encoder = NormedPatches()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    weight = torch.randn(9, 6, dtype=torch.float64)

    def gradient(number: int) -> Tensor:
        leaves = [image.clone().requires_grad_() for image in images[:number]]
        (encoder.encode(leaves).vectors[:9] * weight).sum().backward()
        assert leaves[0].grad is not None
        return leaves[0].grad

    torch.testing.assert_close(gradient(1), gradient(2))
