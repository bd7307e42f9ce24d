"""`vlm encoder`, as a user calls it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]

OWN = """
import torch
from torch import nn
from data.image import ImageSpec
from encoders import encode_by_size

class Sound(nn.Module):
    def __init__(self, width: int = 24):
        super().__init__()
        self.spec = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.width = width
        self.conv = nn.Conv2d(3, 24, 8, stride=8)

    def grid(self, height, width):
        return height // 8, width // 8

    def encode(self, images):
        return encode_by_size(self, images, self.conv)
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's file in the current folder; gives the module's name, another in each test."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_an_encoder_of_a_users_own_file_is_examined_on_one_page(vlm: Vlm, own_file: str) -> None:
    code, out, err = vlm("encoder", "check", f"{own_file}.Sound")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{own_file}.Sound  (Sound, random weights, pictures of 32 x 32)"
    for line in (
        "grid            ok      4 x 4 for a picture of 32 x 32, as encode gives it",
        "sizes           ok      takes 16 x 16, 32 x 48, 64 x 64",
        "parameters              4,632, all learn; 0.0 MiB in float32",
        "passed: 14 probes, 0 failed, 0 with a note",
    ):
        assert line in out
    assert len(out.splitlines()) < 60
    assert max(map(len, out.splitlines())) <= 118


def test_a_wrong_width_is_refused_with_what_to_do(vlm: Vlm, own_file: str) -> None:
    code, out, err = vlm("encoder", "check", f"{own_file}.Sound", "--set", "width=16")
    assert code == 2
    assert "set width to 24 or mend what encode gives" in " ".join(out.split())
    assert "failed: 3 probes, 1 failed" in out
    assert err == f"vlm: error: {own_file}.Sound fails 1 of 3 probes: width\n"


def test_as_json_it_has_every_finding(vlm: Vlm) -> None:
    code, out, _ = vlm("encoder", "check", "timm:test_efficientnet", "--set", "size_px=64", "--json")
    found = json.loads(out)
    assert (code, found["passed"], found["size_px"], found["grid"]) == (0, True, 64, [2, 2])
    assert {finding["probe"] for finding in found["findings"]} >= {"grid", "sizes", "gradients", "state"}
    assert found["flops"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["timm:vit_tinny_patch16_224"], "near: vit_tiny_patch16_224"),
        (["timm:test_resnet", "--set", "size_px"], "KEY=VALUE, such as size_px=64; got 'size_px'"),
        (["timm:test_resnet", "--set", "size=64"], "unexpected keyword argument 'size'"),
        (["timm:test_resnet", "--set", "name=a"], "the encoder's name stands first"),
        (["timm:test_resnet", "--set", "size_px=64", "--set", "size_px=32"], "--set size_px is given twice"),
        (["timm:test_resnet", "--set", "layer=[1"], "is no YAML value"),
        (["timm:test_resnet", "--set", "weights=hub", "--pretrained"], "both say which weights; give one"),
        (["encoders.patch_encoder.PatchEncoder", "--pretrained"], "unexpected keyword argument 'weights'"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(vlm: Vlm, arguments: list[str], message: str) -> None:
    code, out, err = vlm("encoder", "check", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_names_are_listed_by_a_part_or_by_a_pattern(vlm: Vlm) -> None:
    assert vlm("encoder", "list", "siglip_512")[1].splitlines() == [
        "timm:vit_base_patch16_siglip_512",
        "timm:vit_large_patch16_siglip_512",
        "timm:vit_so400m_patch16_siglip_512",
    ]
    assert sorted(vlm("encoder", "list", "open_clip:ViT-B-32*-256")[1].splitlines()) == [
        "open_clip:ViT-B-32-256",
        "open_clip:ViT-B-32-SigLIP2-256",
        "open_clip:ViT-B-32-plus-256",
    ]
    assert "open_clip:ViT-B-16" in json.loads(vlm("encoder", "list", "ViT-B-16", "--json")[1])
    assert len(vlm("encoder", "list")[1].splitlines()) > 1000


def test_a_name_that_none_has_is_told_with_near_ones(vlm: Vlm) -> None:
    code, out, err = vlm("encoder", "list", "resnet5O")
    assert (code, out) == (2, "")
    assert "matches 'resnet5O'; near: " in err
    assert "resnet50" in err
