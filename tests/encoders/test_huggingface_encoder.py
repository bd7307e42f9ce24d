"""Vision models of transformers beside their own forward pass, built small, saved and loaded without a network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

pytest.importorskip("transformers")
pytestmark = pytest.mark.long  # importing transformers' models takes seconds

from encoders.check import check_encoder  # noqa: E402
from encoders.huggingface_encoder import HuggingFaceEncoder, _spec  # noqa: E402
from encoders.protocol import from_name, portable_setting  # noqa: E402

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60000,
}
# One class token; two; a class token and registers; none; of a model with text; pyramids.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTConfig", VIT),
    "deit": ("DeiTConfig", VIT),
    "dinov2": ("Dinov2Config", VIT),
    "dinov2_registers": ("Dinov2WithRegistersConfig", VIT),
    "dinov3": ("DINOv3ViTConfig", VIT),
    "siglip": ("SiglipVisionConfig", VIT),
    "clip": ("CLIPConfig", {"vision_config": VIT, "text_config": TEXT}),
    "convnext": ("ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "swin": ("SwinConfig", {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 2}),
}
PROCESSOR = {
    "image_mean": [0.48, 0.45, 0.4],
    "image_std": [0.26, 0.26, 0.27],
    "size": {"height": 64, "width": 64},
    "resample": 2,
}


def saved(kind: str, folder: Path) -> Any:
    """A model with random weights, and the folder that transformers writes of it."""
    import transformers

    torch.manual_seed(0)
    name, settings = KINDS[kind]
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**settings)).eval()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return getattr(model, "vision_model", model)


def row_by_row(found: Tensor, num_vectors: int) -> Tensor:
    """A map, or tokens with others before the patches, as vectors."""
    return found[0].flatten(1).T if found.ndim == 4 else found[0, found.shape[1] - num_vectors :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_models_vectors_are_transformers_last_hidden_state_without_the_prefix(kind: str, tmp_path: Path) -> None:
    model = saved(kind, tmp_path)
    encoder = HuggingFaceEncoder(str(tmp_path), weights="hub")
    assert all(parameter.is_meta for parameter in encoder.parameters())
    encoder.materialise().eval()
    check_encoder(encoder)
    for size in ((64, 64), (64, 96)):
        image = torch.randn(3, *size)
        with torch.no_grad():
            expected = model(image[None], **encoder.tower.asked).last_hidden_state
            vectors = encoder.encode([image]).vectors
        assert len(vectors) == encoder.grid(*size)[0] * encoder.grid(*size)[1]
        torch.testing.assert_close(vectors, row_by_row(expected, len(vectors)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["dinov2_registers", "siglip", "convnext", "swin"])
def test_earlier_layers_are_the_models_hidden_states_and_the_rest_is_cut_off(kind: str, tmp_path: Path) -> None:
    model = saved(kind, tmp_path)
    encoder = HuggingFaceEncoder(str(tmp_path), weights=str(tmp_path), layer=[-2, 0]).materialise().train()
    image = torch.randn(3, 64, 64)
    with torch.no_grad():
        out = model(image[None], output_hidden_states=True, **encoder.tower.asked)
    hidden = getattr(out, "reshaped_hidden_states", None) or out.hidden_states
    features = encoder.encode([image])
    rows, columns = features.grids[0].tolist()
    maps = [
        one if one.ndim == 4 else one[:, one.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))
        for one in (hidden[-2], hidden[1])
    ]
    maps = [torch.nn.functional.interpolate(one, (rows, columns), mode="bilinear") for one in maps]
    expected = torch.cat(maps, dim=1)[0].flatten(1).T
    torch.testing.assert_close(features.vectors, expected, rtol=0, atol=1e-6)
    features.vectors.pow(2).sum().backward()
    assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_model_built_from_its_portable_setting_needs_no_folder(tmp_path: Path) -> None:
    saved("clip", tmp_path)
    setting = {"name": f"hf:{tmp_path}", "weights": "hub", "layer": -2}
    encoder = from_name(**setting).materialise().eval()  # type: ignore[arg-type, attr-defined]
    written = yaml.safe_load(yaml.safe_dump(portable_setting(encoder, setting)))
    assert "weights" not in written
    again = from_name(**written | {"name": "hf:/gone"}).materialise().eval()  # type: ignore[attr-defined]
    again.load_state_dict(encoder.state_dict())
    image = torch.randn(3, 64, 64)
    assert again.spec == encoder.spec
    assert torch.equal(again.encode([image]).vectors, encoder.encode([image]).vectors)
    assert again.weights_key() == encoder.weights_key()


def test_a_file_of_weights_is_loaded_and_what_is_missing_is_named(tmp_path: Path) -> None:
    model = saved("siglip", tmp_path)
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    encoder = HuggingFaceEncoder(str(tmp_path), weights=str(tmp_path / "mine.pt")).materialise().eval()
    image = torch.randn(3, 64, 64)
    expected = model(image[None], interpolate_pos_encoding=True).last_hidden_state[0]
    torch.testing.assert_close(encoder.encode([image]).vectors, expected, rtol=0, atol=1e-6)
    state = model.state_dict()
    state = {key: value for key, value in state.items() if not key.endswith("post_layernorm.weight")}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"other\.pt does not fit the model, tensors: 1 missing \(post_layernorm\.weight\)"
    ):
        HuggingFaceEncoder(str(tmp_path), weights=str(tmp_path / "other.pt")).materialise()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intermediate_size": 40}, r"9 of another shape \(layers\.0\..*is \(48\b.*needed \(40\b"),
        ({"num_hidden_layers": 2}, r"16 unexpected \((vit\.)?(encoder\.)?layers?\.2\."),
    ],
)
def test_weights_of_another_model_are_told_tensor_by_tensor(
    change: dict[str, int], message: str, tmp_path: Path
) -> None:
    saved("vit", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        HuggingFaceEncoder(str(tmp_path), weights="hub").materialise()


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({}, (64, "squash", "bilinear")),
        (
            {
                "size": {"shortest_edge": 72},
                "crop_size": {"height": 56, "width": 56},
                "do_center_crop": True,
                "resample": 3,
            },
            (56, "letterbox", "bicubic"),
        ),
        ({"size": {"shortest_edge": 72}, "resample": 1}, (72, "letterbox", "bicubic")),
        ({"size": 48}, (48, "letterbox", "bilinear")),
    ],
)
def test_pictures_are_prepared_as_the_processor_says_but_never_cut(
    processor: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    spec = _spec("mine", PROCESSOR | processor, None)
    assert (spec.size_px, spec.fit, spec.interpolation) == expected
    assert (spec.mean, spec.std) == ((0.48, 0.45, 0.4), (0.26, 0.26, 0.27))


def test_what_is_no_vision_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants
    import transformers

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="has no config of '/nowhere/at/all'"):
        HuggingFaceEncoder("/nowhere/at/all")
    transformers.BertConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json"):
        HuggingFaceEncoder(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(ValueError, match="BertModel takes more than pictures; name a vision model"):
        HuggingFaceEncoder(str(tmp_path))
    saved("vit", tmp_path)
    with pytest.raises(ValueError, match="it has 3 layers, got layer"):
        HuggingFaceEncoder(str(tmp_path), layer=3)
    with pytest.raises(ValueError, match="weights must be hub, a folder or a"):
        HuggingFaceEncoder(str(tmp_path), weights="hubb")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"rescale_factor": 1.0}))
    with pytest.raises(ValueError, match="scales pixels otherwise than by 1/255"):
        HuggingFaceEncoder(str(tmp_path))
