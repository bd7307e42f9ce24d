"""Concepts end where a measurement says, in prompts and in steps."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.sample import parse_sample
from data.shards import write_manifest, write_shard
from data.text import sample_row
from vlm.backbone import BackboneConfig, ChunkConfig, Documents, ExpertsConfig
from vlm.bench.boundaries import Pattern
from vlm.bench.lineup import Lineup
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig, VisionLanguageModel

pytestmark = pytest.mark.long


@pytest.mark.parametrize(("compression", "steps"), [(1.5, 12), (16 / 9, 16), (2.0, 16), (4.0, 16)])
def test_a_regular_pattern_closes_exactly_its_share_of_any_steps(compression: float, steps: int) -> None:
    pattern = Pattern.regular(compression)
    assert pattern.compression == pytest.approx(compression)
    rows = pattern.rows(8, 1001, steps)
    assert rows.sum(1).tolist() == [round(steps / compression)] * 8


def test_neighbours_do_not_close_in_step() -> None:
    rows = Pattern.regular(2.0).rows(8, 100, 16)
    assert rows.sum(0).tolist() == [4] * 16
    assert (rows[1:] != rows[:-1]).all()
    long = Pattern("long", torch.arange(1000) % 10 == 9)
    assert long.rows(4, 0, 1000).sum().item() == 4 * 100


def test_a_sequence_goes_on_in_the_pattern_where_its_prompt_ended() -> None:
    pattern = Pattern("some", torch.tensor([False, True, True, False, True]))
    whole = pattern.rows(3, 0, 20)
    assert torch.equal(torch.cat([pattern.rows(3, 0, 7), pattern.rows(3, 7, 13)], 1), whole)


@pytest.mark.parametrize("prompt", [5, 6])
def test_steps_close_exactly_what_is_forced(lined_up: Callable[..., Lineup], prompt: int) -> None:
    lineup = lined_up("1L", "2L")
    closes = Pattern.regular(2.0).rows(3, 0, prompt + 16)
    for name in list(lineup.ours)[1:]:
        model = lineup.ours[name]
        cache = model.backbone.new_cache(3, prompt + 16)
        ids, documents = torch.arange(3 * prompt), Documents.from_lengths([prompt] * 3)
        model.prefill(ids, documents, cache, closes[:, :prompt].flatten())
        # A document's first token closes in any case.
        assert list(cache.num_concepts) == [1 + int(row[1:prompt].sum()) for row in closes]
        for turn in range(16):
            before = cache.num_concepts
            model.step(torch.arange(3), cache, closes[:, prompt + turn])
            grown = [new - old for new, old in zip(cache.num_concepts, before, strict=True)]
            assert grown == closes[:, prompt + turn].long().tolist()


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    return file.getvalue()


def text_record(number: int) -> tuple[str, dict[str, bytes]]:
    content = [{"type": "text", "text": f"the {number}. record says that {number} is not {number + 1}"}]
    return f"{number:03}", {"json": json.dumps({"id": str(number), "content": content}).encode()}


def picture_record(number: int) -> tuple[str, dict[str, bytes]]:
    content = [{"type": "image", "image": "0.png"}, {"type": "text", "text": "a red square"}]
    return f"{number:03}", {"json": json.dumps({"id": f"p{number}", "content": content}).encode(), "0.png": picture()}


@pytest.fixture
def held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, make in (("scenes", picture_record), ("text", text_record)):
        folder = tmp_path / "demo" / "val" / name
        folder.mkdir(parents=True)
        write_shard(folder / "a.tar", [make(number) for number in range(30)])
        write_manifest(folder)
    monkeypatch.setattr("data.assets.expand.demo_folder", lambda: tmp_path / "demo")
    return tmp_path / "demo"


def trained(folder: Path, chunk: ChunkConfig | None, encoder: dict | None = None) -> VisionLanguageModel:
    torch.manual_seed(0)
    backbone = BackboneConfig(
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=2, top_k=1, hidden=16),
        chunk=chunk,
    )
    config = ModelConfig(tokenizer="demo", encoder=encoder, connector=ConnectorConfig(merge=1), backbone=backbone)
    model = VisionLanguageModel(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_trained_models_pattern_is_what_it_finds_in_each_record(held_out: Path, tmp_path: Path) -> None:
    model = trained(tmp_path / "model", ChunkConfig(compression=2.0))
    found = Pattern.of_model(tmp_path / "model", num_tokens=200)
    alone = []
    for number in range(30):
        row = sample_row(parse_sample(*text_record(number)), model.tokenizer, None)
        out = model.backbone(model.embed(torch.from_numpy(row.ids)), Documents.from_lengths([len(row)]))
        assert out.chunks is not None
        alone.append(out.chunks.closes[1:])
    assert torch.equal(found.closes, torch.cat(alone)[:200])
    assert found.name == "model"
    assert found.compression == pytest.approx(200 / torch.cat(alone)[:200].sum().item())


def test_a_trained_models_pattern_takes_pictures_in_turn_with_texts(held_out: Path, tmp_path: Path) -> None:
    encoder = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 16, "width": 12}
    model = trained(tmp_path / "model", ChunkConfig(compression=2.0), encoder)
    lengths = [
        len(sample_row(parse_sample(*make(0)), model.tokenizer, model.layout)) for make in (picture_record, text_record)
    ]
    found = Pattern.of_model(tmp_path / "model", num_tokens=10**6)
    assert len(found.closes) >= 30 * (sum(lengths) - 2)


def test_a_model_without_chunker_has_no_pattern(held_out: Path, tmp_path: Path) -> None:
    trained(tmp_path / "model", None)
    with pytest.raises(ValueError, match="has no chunker"):
        Pattern.of_model(tmp_path / "model")
    with pytest.raises(ValueError, match="no model folder at"):
        Pattern.of_model(tmp_path / "nothing")


@pytest.mark.parametrize("compression", [0.5, 1e9, float("inf"), float("nan")])
def test_a_regular_pattern_needs_a_number_that_makes_one(compression: float) -> None:
    with pytest.raises(
        ValueError, match=f"a concept has 1 to 1000 tokens on average, got {compression:g}".replace("+", r"\+")
    ):
        Pattern.regular(compression)
