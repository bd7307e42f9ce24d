"""open_clip's towers beside open_clip's own forward pass: every kind of pooling, sizes, layers, files and folders."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from encoders.check import check_encoder
from encoders.open_clip_encoder import OpenClipEncoder
from encoders.protocol import from_name

pytestmark = pytest.mark.long  # importing open_clip takes seconds

VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
TOWERS: dict[str, dict[str, Any]] = {
    "tok": VIT,
    "avg": VIT | {"pool_type": "avg", "no_ln_pre": True, "pos_embed_type": "sin_cos_2d", "patch_dropout": 0.5},
    "norm-after-pool": VIT | {"pool_type": "avg", "final_ln_after_pool": True},
    "attentional": VIT | {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    "timm-linear": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160},
    "timm-none": {"timm_model_name": "test_vit4", "timm_pool": "avg", "timm_proj": "none", "image_size": 160},
    "timm-conv": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module", autouse=True)
def towers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small models of each kind, in open_clip's list."""
    import open_clip
    from open_clip import factory

    folder = tmp_path_factory.mktemp("open_clip")
    for name, vision in TOWERS.items():
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": name == "avg"}
        (folder / f"tiny-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in TOWERS:
        del factory._MODEL_CONFIGS[f"tiny-{name}"]


def whole(name: str, **settings: Any) -> Any:
    """A whole CLIP with random weights, made by open_clip."""
    import open_clip

    torch.manual_seed(0)
    return open_clip.create_model(f"tiny-{name}", **settings).eval()


def own_features(visual: Any, image: Tensor) -> Tensor:
    """The tower's last features by its own forward pass, (p w)."""
    if hasattr(visual, "trunk"):
        found = visual.trunk.forward_features(image[None])
        return found[0, visual.trunk.num_prefix_tokens :] if found.ndim == 3 else found[0].flatten(1).T
    if hasattr(visual, "layer4"):
        stages = (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        found = image[None]
        for stage in stages:
            found = stage(found)
        return found[0].flatten(1).T
    if visual.attn_pool is not None:  # its own tokens are what comes out of the pooling; ours go into it
        return visual.transformer(visual._embeds(image[None]))[0, 1:]
    visual.output_tokens = True
    return visual(image[None])[1][0]


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_gives_open_clips_own_features_from_a_file_of_the_whole_model(name: str, tmp_path: Path) -> None:
    clip = whole(name)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in clip.state_dict().items()}},
        tmp_path / "epoch_3.pt",
    )
    encoder = OpenClipEncoder(f"tiny-{name}", weights=str(tmp_path / "epoch_3.pt"))
    assert all(parameter.is_meta for parameter in encoder.parameters())
    encoder.materialise().eval()
    check_encoder(encoder)
    image = torch.randn(3, encoder.spec.size_px, encoder.spec.size_px)
    with torch.no_grad():
        expected = own_features(clip.visual, image)
        torch.testing.assert_close(encoder.encode([image]).vectors, expected, rtol=0, atol=1e-6)
    assert sum(p.numel() for p in encoder.parameters()) < sum(p.numel() for p in clip.visual.parameters())


@pytest.mark.parametrize("name", ["tok", "resnet", "timm-conv"])
def test_an_earlier_layer_is_open_clips_without_the_final_norm(name: str, tmp_path: Path) -> None:
    clip = whole(name)
    save_file(clip.visual.state_dict(), tmp_path / "visual.safetensors")
    weights = str(tmp_path / "visual.safetensors")
    earlier, both = (
        OpenClipEncoder(f"tiny-{name}", weights=weights, layer=layer).materialise().eval() for layer in (-2, [-2, -3])
    )
    size = earlier.spec.size_px
    image = torch.randn(3, size, size)
    maps = clip.visual.forward_intermediates(image[None], indices=3, intermediates_only=True)["image_intermediates"]
    expected = maps[-2][0].flatten(1).T
    torch.testing.assert_close(earlier.encode([image]).vectors, expected, rtol=0, atol=1e-6)
    assert both.width == maps[-2].shape[1] + maps[-3].shape[1]
    if name == "tok":
        beside = maps[-3][0].flatten(1).T
        torch.testing.assert_close(
            both.encode([image]).vectors, torch.cat([expected, beside], dim=1), rtol=0, atol=1e-6
        )


def test_positions_are_interpolated_as_open_clip_does_for_another_size(tmp_path: Path) -> None:
    clip = whole("tok")
    path = tmp_path / "clip.pt"
    torch.save(clip.state_dict(), path)
    larger = whole("tok", pretrained=str(path), force_image_size=[40, 72])
    encoder = OpenClipEncoder("tiny-tok", size_px=64, weights=str(path)).materialise().eval()
    images = [torch.randn(3, 64, 64), torch.randn(3, 40, 72), torch.randn(3, 64, 64)]
    features = encoder.encode(images)
    assert features.grids.tolist() == [[8, 8], [5, 9], [8, 8]]
    for image, vectors in zip(images, features.split(), strict=True):
        torch.testing.assert_close(encoder.encode([image]).vectors, vectors, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.split()[1], own_features(larger.visual, images[1]), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="takes no picture of 40 x 41 pixels: both sides must be multiples of 8"):
        encoder.grid(40, 41)


def test_gradients_reach_the_positions_of_another_size() -> None:
    encoder = OpenClipEncoder("tiny-tok", size_px=48).materialise().train()
    encoder.encode([torch.randn(3, 48, 48)]).vectors.sum().backward()
    missing = [key for key, parameter in encoder.named_parameters() if parameter.grad is None]
    assert missing == []
    assert encoder.model.positional_embedding.grad.abs().sum() > 0


class NoTokenizer:
    """The folder of a CLIP holds a tokenizer too, which says nothing here."""

    def save_pretrained(self, dest: str) -> None:
        pass


def test_a_folder_that_open_clip_saved_gives_the_same_features(tmp_path: Path) -> None:
    import open_clip
    from open_clip.push_to_hf_hub import save_for_hf

    clip = whole("avg")
    tokenizer: Any = NoTokenizer()
    save_for_hf(clip, tokenizer, open_clip.get_model_config("tiny-avg"), str(tmp_path), safe_serialization=True)
    encoder = from_name("open_clip:tiny-avg", weights=str(tmp_path)).materialise().eval()  # type: ignore[attr-defined]
    image = torch.randn(3, 32, 32)
    expected = own_features(clip.visual, image)
    torch.testing.assert_close(encoder.encode([image]).vectors, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="holds another vision tower than open_clip:tiny-tok"):
        OpenClipEncoder("tiny-tok", weights=str(tmp_path)).materialise()
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"trained with mean \(0\.5, 0\.5, 0\.5\)"):
        OpenClipEncoder("tiny-avg", weights=str(tmp_path)).materialise()


def test_a_file_of_another_tower_and_a_pickle_are_refused(tmp_path: Path) -> None:
    torch.save(whole("avg").state_dict(), tmp_path / "avg.pt")
    with pytest.raises(ValueError, match=r"avg\.pt does not fit the model, tensors: 2 missing \(ln_pre.weight, ln_pre"):
        OpenClipEncoder("tiny-tok", weights=str(tmp_path / "avg.pt")).materialise()
    torch.save(whole("tok").visual, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="save a plain state dict"):
        OpenClipEncoder("tiny-tok", weights=str(tmp_path)).materialise()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ViT-B-32", "weights": "hub"}, "name them, open_clip:ViT-B-32.TAG, TAG of openai"),
        ({"name": "tiny-tok", "weights": "hub"}, "TAG of none"),
        ({"name": "tiny-tok", "layer": 3}, "gives no feature grid for 32 x 32 pixels at layer 3"),
        ({"name": "tiny-resnet", "layer": -6}, "a stem and 4 stages"),
        ({"name": "tiny-tok", "size_px": 0}, "size_px is the side of the square picture in pixels"),
        ({"name": "tiny-tok", "size_px": 30}, "gives no feature grid for 30 x 30 pixels"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenClipEncoder(**settings)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("ViT-B-32", "openai", "activation of ViT-B-32; name open_clip:ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu", "openai", "could not get the weights openai"),
        (
            "ViT-L-14",
            "laion2b_s32b_b82k",
            r"in another way .*; name open_clip:ViT-L-14\.laion2b_s32b_b82k with weights: hub",
        ),
        ("ViT-L-14.laion2b_s32b_b82k", "hub", "could not get the weights laion2b_s32b_b82k of ViT-L-14"),
    ],
)
def test_weights_of_the_hub_must_fit_the_name(
    name: str, weights: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        OpenClipEncoder(name, weights=weights).materialise()


@pytest.mark.parametrize(
    ("name", "size_px", "width", "grid", "fit"),
    [
        ("RN50", 224, 2048, (7, 7), "letterbox"),
        ("ViT-B-32-256", 256, 768, (8, 8), "letterbox"),
        ("coca_ViT-B-32", 224, 768, (7, 7), "letterbox"),
        ("ViT-H-14-quickgelu.dfn5b", 224, 1280, (16, 16), "squash"),
        ("MobileCLIP2-S0", 256, 512, (8, 8), "letterbox"),
        ("ViTamin-S", 224, 384, (14, 14), "letterbox"),
        ("nllb-clip-large-siglip", 384, 1152, (27, 27), "squash"),
        ("PE-Core-T-16-384", 384, 192, (24, 24), "squash"),
    ],
)
def test_models_of_the_list_give_their_grids(
    name: str, size_px: int, width: int, grid: tuple[int, int], fit: str
) -> None:
    encoder = OpenClipEncoder(name)
    assert (encoder.spec.size_px, encoder.width, encoder.grid(size_px, size_px), encoder.spec.fit) == (
        size_px,
        width,
        grid,
        fit,
    )


@pytest.mark.slow
def test_every_model_of_open_clips_list_gives_a_grid() -> None:
    import open_clip

    for name in open_clip.list_models():
        encoder = OpenClipEncoder(name)
        assert min(encoder.grid(encoder.spec.size_px, encoder.spec.size_px)) > 1, name
