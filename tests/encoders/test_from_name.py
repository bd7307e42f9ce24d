"""Names of encoders: sources, import paths, files in the current folder, what a saved model writes down."""

import subprocess
import sys
from pathlib import Path

import pytest

from encoders.patch_encoder import PatchEncoder
from encoders.protocol import from_name, portable_setting

FIFTEEN_LINES = """
from torch import nn
from data.image import ImageSpec
from encoders import encode_by_size

class Mine(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.spec, self.width = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), width
        self.conv = nn.Conv2d(3, width, 8, stride=8)
    def grid(self, height, width):
        return height // 8, width // 8
    def encode(self, images):
        return encode_by_size(self, images, self.conv)

def wide():
    return Mine(width=48)
"""


@pytest.mark.long
def test_a_file_in_the_current_folder_is_found_as_a_class_and_as_a_function(tmp_path: Path) -> None:
    (tmp_path / "beside_the_config.py").write_text(FIFTEEN_LINES)
    # A process of its own whose path holds this repository and not the current folder, as with the `vlm` command.
    code = (
        f"import sys; sys.path[0] = {str(Path(__file__).parents[2])!r}\n"
        "from encoders import check_encoder, from_name\n"
        "encoder = from_name('beside_the_config.Mine', width=16); check_encoder(encoder)\n"
        "print(encoder.width, from_name('beside_the_config.wide').width)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["16", "48"], "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tim:vit_tiny_patch16_224",
            r"unknown encoder source 'tim' .*; use timm:vit_tiny_patch16_224, or timm:NAME, open",
        ),
        ("openclip:RN50", "use open_clip:RN50, or"),
        (
            "PatchEncodr",
            "is neither timm:NAME, open_clip:NAME, hf:NAME nor an import path; write encoders.PatchEncoder",
        ),
        ("encoders.patch_encoder.PatchEncodr", "has no 'PatchEncodr'; near: PatchEncoder"),
        ("timm:test_vitt", "has no model 'test_vitt'; near: test_vit"),
        pytest.param("open_clip:ViT-B-33", "has no model 'ViT-B-33'; near: ViT-B-32", marks=pytest.mark.long),
        pytest.param(
            "open_clip:ViT-B-32.laion3b", "got 'laion3b'; tags: openai, laion400m_e31", marks=pytest.mark.long
        ),
    ],
)
def test_a_wrong_name_is_answered_with_near_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_name(name)


def test_what_a_saved_model_writes_down_has_no_weights_anywhere() -> None:
    settings = {"name": "encoders.PatchEncoder", "width": 8}
    assert portable_setting(PatchEncoder(), "encoders.PatchEncoder") == {"name": "encoders.PatchEncoder"}
    fused = {"name": "encoders.FusedEncoder", "encoders": [settings, {"name": "timm:test_vit", "weights": "hub"}]}
    encoder = from_name(**fused)  # type: ignore[arg-type]
    assert portable_setting(encoder, fused) == {
        "name": "encoders.FusedEncoder",
        "encoders": [settings, {"name": "timm:test_vit"}],
    }
