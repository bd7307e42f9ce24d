from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.batch import Batch
from data.tokenizer import Tokenizer
from encoders.protocol import Features
from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig, VisionLanguageModel

PATCHES = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 16, "width": 12}


def config(encoder: dict[str, object] | None = PATCHES, width: int = 16) -> ModelConfig:
    return ModelConfig(
        tokenizer="demo",
        encoder=encoder,
        connector=ConnectorConfig(),
        backbone=BackboneConfig(
            width=width,
            num_heads=2,
            num_kv_heads=1,
            head_width=8,
            encoder_layers=1,
            concept_layers=1,
            decoder_layers=1,
            experts=ExpertsConfig(num_experts=2, top_k=1, hidden=8),
            chunk=ChunkConfig(compression=2.0),
        ),
    )


def batch(num_pictures: int, text_tokens: int = 5) -> Batch:
    """One document for each picture, or one of text alone; pictures stand first and take 4 slots."""
    torch.manual_seed(num_pictures)
    slots = 4 if num_pictures else 0
    length = slots + text_tokens
    documents = max(1, num_pictures)
    n = documents * length
    is_image = (torch.arange(n) % length) < slots
    ids = torch.randint(10, 50, (n,))
    return Batch(
        ids=ids,
        labels=torch.where(is_image, -100, ids),
        positions=(torch.arange(n) % length)[:, None].expand(n, 3).contiguous(),
        lengths=(length,) * documents,
        is_image=is_image,
        images=tuple(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(num_pictures)),
        image_keys=tuple(f"picture-{i}" for i in range(num_pictures)),
        slots_per_image=(slots,) * num_pictures,
        sample_ids=tuple(str(i) for i in range(documents)),
        cursor=None,
        num_image_slots=slots * num_pictures,
        num_answered=int((~is_image).sum()),
    )


@pytest.fixture
def model() -> VisionLanguageModel:
    torch.manual_seed(0)
    return VisionLanguageModel(config()).eval()


def test_a_saved_model_gives_the_same_hidden_vectors_when_loaded(model: VisionLanguageModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    loaded = VisionLanguageModel.from_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "SHA256SUMS",
        "config.yaml",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert torch.equal(loaded(batch(2)).hidden, model(batch(2)).hidden)
    model.save_pretrained(tmp_path / "model")  # saving once more replaces the folder
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_features_from_the_cache_give_what_pixels_give(model: VisionLanguageModel) -> None:
    pixels = batch(3)
    features = dict(zip(pixels.image_keys, model.encode_images(pixels).split(), strict=True))
    model.cached_features = lambda keys: Features(
        torch.cat([features[key] for key in keys]), torch.tensor([[2, 2]] * 2)
    )
    mixed = replace(pixels, images=(None, pixels.images[1], None))
    torch.testing.assert_close(model(mixed).hidden, model(pixels).hidden)


def test_another_picture_changes_the_answer_and_the_same_one_does_not(model: VisionLanguageModel) -> None:
    first = batch(1)
    black = replace(first, images=(torch.zeros(3, 32, 32, dtype=torch.uint8),))
    assert torch.equal(model(first).hidden, model(batch(1)).hidden)
    assert not torch.allclose(model(first).hidden[-1], model(black).hidden[-1])


def test_a_text_only_batch_gives_every_parameter_a_gradient(model: VisionLanguageModel) -> None:
    model.train()
    model(batch(0, text_tokens=30)).hidden.sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_pictures_are_refused_by_a_model_without_an_encoder() -> None:
    with pytest.raises(ValueError, match="this model has no encoder; set `encoder`"):
        VisionLanguageModel(config(encoder=None))(batch(1))


def test_logits_are_float32_also_under_bf16(model: VisionLanguageModel) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(model(batch(1)).hidden)
    assert logits.dtype == torch.float32
    assert logits.shape == (9, Tokenizer("demo").vocab_size)


def test_weights_of_another_architecture_are_refused_by_name(model: VisionLanguageModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    VisionLanguageModel(config(width=24)).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model" / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.safetensors holds another architecture .* is \(.*24.*\) there and \(.*16.*\) here"
    ):
        VisionLanguageModel.from_pretrained(tmp_path / "model")


def test_a_missing_weight_is_named(model: VisionLanguageModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(str(file))
    del weights["embed.weight"]
    save_file(weights, str(file))
    with pytest.raises(ValueError, match=r"lacks embed\.weight"):
        VisionLanguageModel.from_pretrained(tmp_path / "model")


def test_a_folder_that_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model folder at .*nowhere"):
        VisionLanguageModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"lacks model\.safetensors, config\.yaml, tokenizer\.json"):
        VisionLanguageModel.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_earlier_model(
    model: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path / "model")

    def disk_full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.tokenizer, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    VisionLanguageModel.from_pretrained(tmp_path / "model")
