"""A plain model becomes a ConceptMoE that begins where it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.vlm.convert.conftest import Vlm
from tests.vlm.convert.pretrained import make_model, save
from vlm.backbone import BackboneConfig, Documents
from vlm.backbone.block import Stream
from vlm.backbone.cost import concept_parts, costs, token_parts
from vlm.convert.doctor import examine
from vlm.convert.from_hf import import_model
from vlm.convert.to_conceptmoe import conceptmoe_config, convert_model
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

Import = Callable[..., Path]
LENGTHS = [9, 1, 14]


@pytest.fixture
def plain(tmp_path: Path) -> Import:
    """A model folder of a random model that transformers made."""

    def make(variant: str = "qwen3 moe", dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
        many = {"num_experts": 16} if "moe" in variant else {}
        save(make_model(variant, dtype, **many, **settings), tmp_path / "hf")
        import_model(str(tmp_path / "hf"), tmp_path / "plain")
        return tmp_path / "plain"

    return make


def logits(model: VisionLanguageModel, *, is_open: bool = False) -> Tensor:
    """Of a row of three documents; with `is_open` every token is a concept of its own, as in a run's first step."""
    ids = torch.randint(model.tokenizer.vocab_size, (sum(LENGTHS),), generator=torch.Generator().manual_seed(3))
    if is_open:
        assert model.backbone.chunker is not None
        model.train()
        model.backbone.chunker.open_share = 1.0
    with torch.no_grad():
        out = model.backbone(model.embed(ids), Documents.from_lengths(LENGTHS))
        if is_open:
            assert out.chunks is not None
            assert bool(out.chunks.closes.all())
        return model.logits(out.hidden)


@pytest.mark.parametrize(
    "variant",
    ["qwen3 moe, tied, biased, raw top-k, yarn", "qwen3", "qwen2", "llama, llama3", "olmoe"],
)
def test_with_every_token_a_concept_the_output_is_the_source_s(variant: str, plain: Import, tmp_path: Path) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        source = VisionLanguageModel.from_pretrained(plain(variant, dtype))
        experts, out = source.config.backbone.experts, tmp_path / f"concept{tolerance}"
        top_k = experts.top_k if experts.num_experts > 1 else None
        convert_model(tmp_path / "plain", out, compression=1.5, layers=(1, 1, 2), top_k=top_k)
        due, found = logits(source), logits(VisionLanguageModel.from_pretrained(out), is_open=True)
        assert found.dtype == dtype
        assert (found - due).abs().max() < tolerance * due.abs().max()
        for folder in ("hf", "plain"):
            for path in (tmp_path / folder).iterdir():
                path.unlink()


def test_the_paper_s_residual_begins_elsewhere(plain: Import, tmp_path: Path) -> None:
    source = VisionLanguageModel.from_pretrained(plain())
    convert_model(tmp_path / "plain", tmp_path / "out", compression=1.5, top_k=2, residual="concept")
    due, found = logits(source), logits(VisionLanguageModel.from_pretrained(tmp_path / "out"), is_open=True)
    assert (found - due).abs().max() > 0.1 * due.abs().max()


@pytest.mark.parametrize("layers", [None, (0, 3, 1), (2, 1, 1), (0, 4, 0)])
def test_every_weight_of_the_source_is_kept(
    layers: tuple[int, int, int] | None, plain: Import, tmp_path: Path, vlm: Vlm
) -> None:
    options = () if layers is None else ("--layers", ",".join(map(str, layers)))
    folders = plain(), tmp_path / "out"
    code, out, _ = vlm("convert", "to-conceptmoe", *folders, "--compression", 1.5, *options, "--json")
    assert code == 0
    told = json.loads(out)
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    assert {one["name"]: one["shape"] for one in told["tensors"]} == {key: list(t.shape) for key, t in after.items()}
    origins = {one["name"]: one["from"] for one in told["tensors"]}
    assert sorted(one for one in origins.values() if one is not None) == sorted(before)
    assert all(torch.equal(after[name], before[origin]) for name, origin in origins.items() if origin is not None)
    new = [name for name, origin in origins.items() if origin is None]
    assert all("chunker." in name or ".joint_" in name for name in new)
    for name in new:
        joint = ".joint_" in name
        assert bool((after[name] == (1.0 if "norm" in name else 0.0)).all()) == joint
    # The order of the layers is the source's.
    config = VisionLanguageModel.from_pretrained(folders[1]).config.backbone
    given = [
        (f"encoder.{i}" for i in range(config.encoder_layers)),
        (f"concept.{i}" for i in range(config.concept_layers)),
    ]
    order = [name for part in (*given, (f"decoder.{i}" for i in range(config.decoder_layers))) for name in part]
    norm = "input_layernorm.weight"
    assert [origins[f"backbone.{name}.{norm}"] for name in order] == [
        f"backbone.{name}.{norm}" for name in ("encoder.0", "concept.0", "concept.1", "decoder.0")
    ]


def test_the_chunker_is_drawn_by_the_seed(plain: Import, tmp_path: Path) -> None:
    folder = plain()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        convert_model(folder, tmp_path / name, compression=1.5, seed=seed)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert {name for name in a if not torch.equal(a[name], c[name])} == {
        "backbone.chunker.k_proj.weight",
        "backbone.chunker.q_proj.weight",
    }
    assert not torch.equal(a["backbone.chunker.k_proj.weight"], a["backbone.chunker.q_proj.weight"])


PLAIN: dict[str, Any] = {
    "width": 64, "num_heads": 4, "num_kv_heads": 2, "head_width": 16,
    "encoder_layers": 2, "concept_layers": 8, "decoder_layers": 2, "chunk": None,
}  # fmt: skip


def concept_flops(config: BackboneConfig) -> float:
    """Of the concept layers alone, for one token: what the paper matches."""
    ratio = 1.0 if config.chunk is None else config.chunk.compression
    parts = token_parts(config) if config.chunk is None else concept_parts(config)
    return parts["concept layers"].flops / ratio


@pytest.mark.parametrize(("compression", "loop"), [(1.5, 0), (1.5, 2), (1.5, 4), (2.0, 8), (4.0, 0), (1.0, 4)])
def test_the_matched_number_of_experts_is_the_nearest_one(compression: float, loop: int) -> None:
    from vlm.backbone import ExpertsConfig

    plain = BackboneConfig(**PLAIN, experts=ExpertsConfig(num_experts=64, top_k=8, hidden=32))
    config, matched = conceptmoe_config(plain, compression, loop)
    assert config.concept.experts is not None
    assert matched == config.concept.experts.top_k
    assert len(config.concept_order) == 8 + loop

    def miss(top_k: int) -> float:
        experts = replace(plain.experts, top_k=top_k)
        other = replace(config, concept=replace(config.concept, experts=experts))
        return abs(concept_flops(other) - concept_flops(plain))

    assert matched == min(range(1, 65), key=miss)


def test_the_paper_s_names() -> None:
    """MoE-A2.5B-90B: 34 concept layers, attention that costs about 6 experts; top-15 at 1.5, or top-11 with 8 looped."""
    from vlm.backbone import ExpertsConfig

    plain = BackboneConfig(
        width=2048, num_heads=16, num_kv_heads=4, head_width=128, encoder_layers=4, concept_layers=34, decoder_layers=4,
        experts=ExpertsConfig(num_experts=192, top_k=8, hidden=288), chunk=None,
    )  # fmt: skip
    assert conceptmoe_config(plain, 1.5)[1] == 15
    assert conceptmoe_config(plain, 1.5, loop=8)[1] == 11


def test_a_loop_without_a_chunker_runs_layers_twice(plain: Import, tmp_path: Path) -> None:
    source = VisionLanguageModel.from_pretrained(plain())
    convert_model(tmp_path / "plain", tmp_path / "out", compression=1.0, loop=1, top_k=2)
    looped = VisionLanguageModel.from_pretrained(tmp_path / "out")
    assert looped.backbone.chunker is None
    backbone, ids = source.backbone, torch.arange(20)
    documents = Documents.from_lengths([12, 8])
    with torch.no_grad():
        x = source.embed(ids)
        stream = Stream(documents, backbone.rotary(documents.offset_in_document, x.dtype))
        for block in (
            *backbone.encoder,
            backbone.concept[0],
            backbone.concept[0],
            backbone.concept[1],
            *backbone.decoder,
        ):
            x = block(x, stream)[0]
        assert torch.allclose(looped.backbone(looped.embed(ids), documents).hidden, backbone.norm(x), atol=1e-5)


def test_costs_are_told(plain: Import, tmp_path: Path, vlm: Vlm) -> None:
    code, out, _ = vlm("convert", "to-conceptmoe", plain(), tmp_path / "out", "--compression", 1.5, "--loop", 1)
    assert code == 0
    told = VisionLanguageModel.from_pretrained(tmp_path / "out").config.backbone
    assert f"{costs(told).text.flops:,.0f}" in out
    assert told.concept.experts is not None
    assert f"top{told.concept.experts.top_k}-loop1-R1.5" in out
    assert "concept layers cost a token what they cost there" in out
    code, out, _ = vlm(
        "convert", "to-conceptmoe", tmp_path / "plain", tmp_path / "two", "--compression", 1.5, "--top-k", 2
    )
    assert code == 0
    matched = conceptmoe_config(VisionLanguageModel.from_pretrained(tmp_path / "plain").config.backbone, 1.5)[1]
    assert f"{matched} would cost what the source costs" in out
    assert "backbone.chunker.q_proj.weight" in out


@pytest.mark.parametrize("shard_mb", [0.02, 5000])
def test_the_result_is_a_whole_model_folder(shard_mb: float, plain: Import, tmp_path: Path, vlm: Vlm) -> None:
    source = plain("qwen3 moe", torch.bfloat16)
    convert_model(source, tmp_path / "out", compression=2.0, shard_bytes=int(shard_mb * 1e6))
    assert examine(tmp_path / "out").faults == []
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == (1 if shard_mb == 5000 else pytest.approx(4, abs=3))
    model = VisionLanguageModel.from_pretrained(tmp_path / "out")
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    code, _, err = vlm("generate", "--model", tmp_path / "out", "--prompt", "the red square", "--max-new-tokens", 4)
    assert (code, err.count("\n")) == (0, 1)


@pytest.mark.parametrize(
    ("variant", "options", "told"),
    [
        ("qwen3 moe", ("--compression", 1), "1 adds no chunker and needs --loop"),
        ("qwen3 moe", ("--compression", 0.5, "--loop", 1), "above 1, got 0.5"),
        ("qwen3 moe", ("--compression", "nan"), "above 1, got nan"),
        ("qwen3 moe", ("--compression", "inf"), "got inf"),
        ("qwen3 moe", ("--compression", 1.5, "--loop", 3), "how many of the 2 concept layers run twice, got 3"),
        ("qwen3 moe", ("--compression", 1.5, "--loop", -1), "got -1"),
        ("qwen3 moe", ("--compression", 1.5, "--layers", "1,1,1"), "makes 3 layers and the model has 4"),
        ("qwen3 moe", ("--compression", 1.5, "--layers", "2,0,2"), "no concept layers"),
        ("qwen3 moe", ("--compression", 9), "or choose another number with --top-k"),
        ("qwen3 moe", ("--compression", 1.5, "--top-k", 17), "between 1 and num_experts=16, got 17"),
        ("qwen3 moe", ("--compression", 1.5, "--top-k", 0), "got 0"),
        ("qwen3 moe", ("--compression", 1.5, "--shard-mb", 0), "--shard-mb must be at least 1"),
        ("llama", ("--compression", 1.5, "--top-k", 2), "make it a MoE first with `vlm convert upcycle`"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    variant: str, options: tuple[object, ...], told: str, plain: Import, tmp_path: Path, vlm: Vlm
) -> None:
    code, out, err = vlm("convert", "to-conceptmoe", plain(variant), tmp_path / "out", *options)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_no_plain_model_is_refused(plain: Import, tmp_path: Path, vlm: Vlm) -> None:
    folder = plain()
    convert_model(folder, tmp_path / "concept", compression=1.5)
    options = ("--compression", 1.5)
    for source, out, reason in (
        (tmp_path / "concept", "two", "has a chunker or concept settings already"),
        (folder, "concept", "is not empty"),
        (tmp_path / "nothing", "two", "no model folder"),
    ):
        code, _, err = vlm("convert", "to-conceptmoe", source, tmp_path / out, *options)
        assert code == 2
        assert reason in err
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    code, _, err = vlm("convert", "to-conceptmoe", folder, tmp_path / "two", *options)
    assert code == 2
    assert "model.safetensors changed" in err
    assert not (tmp_path / "two").exists()


def test_a_dense_model_keeps_what_chunking_saves(plain: Import, tmp_path: Path, vlm: Vlm) -> None:
    code, out, _ = vlm("convert", "to-conceptmoe", plain("llama"), tmp_path / "out", "--compression", 2)
    assert code == 0
    assert "what chunking saves is saved" in out
    config = VisionLanguageModel.from_pretrained(tmp_path / "out").config.backbone
    assert config.concept.experts is None
    assert isinstance(VisionLanguageModel.from_pretrained(tmp_path / "out").backbone.chunker, nn.Module)
