"""What an import takes, reports, leaves out and refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.vlm.convert.conftest import Vlm
from tests.vlm.convert.pretrained import SIZES, change_config, make_model, save
from vlm.backbone.rope import RopeScaling
from vlm.convert.architecture import read_architecture
from vlm.convert.from_hf import import_model
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

TOKENS = 283


def test_every_tensor_is_accounted_for(hf_folder: Path, tmp_path: Path, vlm: Vlm) -> None:
    code, out, _ = vlm("convert", "from-hf", hf_folder, tmp_path / "model", "--json")
    assert code == 0
    told = json.loads(out)
    theirs, ours = load_file(hf_folder / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert sorted(part for one in told["tensors"] for part in one["from"]) == sorted(theirs)
    assert told["unused"] == []
    assert {one["name"]: one["shape"] for one in told["tensors"]} == {name: list(t.shape) for name, t in ours.items()}
    assert {one["name"] for one in told["tensors"] if one["new_rows"] == [TOKENS, 288]} == {
        "embed.weight",
        "head.weight",
    }
    assert told["padding_rows_left_out"] == 17
    gates = [theirs[f"model.layers.1.mlp.experts.{expert}.gate_proj.weight"] for expert in range(5)]
    assert torch.equal(ours["backbone.concept.0.mlp.experts.gate_up_proj"][:, :12], torch.stack(gates))
    assert torch.equal(ours["embed.weight"][:TOKENS], theirs["model.embed_tokens.weight"][:TOKENS])


def test_the_table_names_layers_once_and_says_what_is_new(hf_folder: Path, tmp_path: Path, vlm: Vlm) -> None:
    code, out, _ = vlm("convert", "from-hf", hf_folder, tmp_path / "model")
    assert code == 0
    assert "model.layers.*.mlp.experts.*.gate_proj.weight + model.layers.*.mlp.experts.*.up_proj.weight" in out
    assert "<|end|> is <|im_end|>, <|system|> is new" in out
    assert "283 of the source's 300 rows, 5 new rows" in out
    assert len(out.splitlines()) < 30


def test_new_rows_lie_near_the_mean_of_the_others_and_are_the_same_each_time(hf_folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        import_model(str(hf_folder), tmp_path / name)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    for name in ("embed.weight", "head.weight"):
        known, new = first[name].split([TOKENS, 5])
        assert torch.equal(new, second[name][TOKENS:])
        assert (new - known.mean(0)).abs().max() < 0.5 * known.std()
        assert new.std(0).min() > 0


def test_a_model_in_shards_and_one_with_fused_experts_give_the_same_files(hf_folder: Path, tmp_path: Path) -> None:
    shards = save(make_model("qwen3 moe", torch.float32), tmp_path / "shards", max_shard_size="30KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 3
    fused = shutil.copytree(hf_folder, tmp_path / "fused")
    weights = load_file(hf_folder / "model.safetensors")
    for layer in range(4):
        experts = f"model.layers.{layer}.mlp.experts"
        kinds: dict[str, list[torch.Tensor]] = {kind: [] for kind in ("gate_proj", "up_proj", "down_proj")}
        for kind, found in kinds.items():
            found += [weights.pop(f"{experts}.{expert}.{kind}.weight") for expert in range(5)]
        gate, up, down = (torch.stack(found) for found in kinds.values())
        weights |= {f"{experts}.gate_up_proj": torch.cat([gate, up], 1), f"{experts}.down_proj": down}
    save_file(weights, fused / "model.safetensors")
    written = []
    for folder in (hf_folder, shards, fused):
        import_model(str(folder), tmp_path / f"{folder.name}-model")
        written.append((tmp_path / f"{folder.name}-model" / "model.safetensors").read_bytes())
    assert written[0] == written[1] == written[2]


def test_layers_are_named_as_asked_and_a_wrong_sum_is_refused(hf_folder: Path, tmp_path: Path, vlm: Vlm) -> None:
    assert vlm("convert", "from-hf", hf_folder, tmp_path / "model", "--layers", "2,1,1")[0] == 0
    backbone = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())["backbone"]
    assert [backbone[f"{stack}_layers"] for stack in ("encoder", "concept", "decoder")] == [2, 1, 1]
    code, _, err = vlm("convert", "from-hf", hf_folder, tmp_path / "other", "--layers", "2,2,1")
    assert code == 2
    assert "makes 5 layers and the model has 4" in err


def test_a_second_head_and_computed_frequencies_are_unused_in_a_tied_model(tmp_path: Path) -> None:
    folder = save(make_model("llama", torch.float32), tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"
    extra = {"lm_head.weight": weights["model.embed_tokens.weight"].clone(), frequencies: torch.ones(2)}
    save_file(weights | extra, folder / "model.safetensors")
    assert import_model(str(folder), tmp_path / "model").unused == ("lm_head.weight", frequencies)
    assert VisionLanguageModel.from_pretrained(tmp_path / "model").head is None


# A setting -> what is said of it.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        {"architectures": ["GPT2LMHeadModel"]},
        "has architectures ['GPT2LMHeadModel']; those that are known",
    ),
    "none": ({"architectures": None}, "has architectures []"),
    "window": (
        {"use_sliding_window": True, "sliding_window": 8},
        "sets sliding_window: 8, which this version cannot",
    ),
    "layer types": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "sets layer_types: ['full_attention', 'sl",
    ),
    "some dense layers": ({"mlp_only_layers": [0]}, "sets mlp_only_layers: [0], which this version cannot"),
    "every other layer": ({"decoder_sparse_step": 2}, "sets decoder_sparse_step: 2"),
    "activation": ({"hidden_act": "gelu"}, "sets hidden_act: 'gelu'"),
    "dropout": ({"attention_dropout": 0.1}, "sets attention_dropout: 0.1"),
    "softcap": ({"attn_logit_softcapping": 50.0}, "sets attn_logit_softcapping: 50.0, which is unknown"),
    "quantised": ({"quantization_config": {"bits": 4}}, "sets quantization_config: {'bits': 4}, which is unknown"),
    "code": ({"auto_map": {"AutoModel": "x.y"}}, "sets auto_map"),
    "rope": (
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
        "positions of the type 'longrope'; known:",
    ),
    "rope's part": ({"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 2]}}, "sets mrope_section: [1, 2]"),
    "rope's share": (
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor: 0.5",
    ),
    "missing": ({"hidden_size": None}, "lacks hidden_size"),
    "more layers": ({"num_hidden_layers": 5}, "the weights lack model.layers.4.input_layernorm.weight"),
    "fewer layers": ({"num_hidden_layers": 3}, "the weights have model.layers.3.input_layernorm.weight"),
    "another size": ({"head_dim": 4}, "is (32, 16) in the weights and (16, 16) by config.json"),
    "biases": ({"attention_bias": True}, "the weights lack model.layers.0.self_attn.q_proj.bias"),
    "vocabulary": ({"vocab_size": 301}, "the embedding has 300 rows and config.json vocab_size 301"),
}


def test_what_cannot_be_expressed_is_refused_by_name_and_leaves_nothing(
    hf_folder: Path, tmp_path: Path, vlm: Vlm
) -> None:
    config = (hf_folder / "config.json").read_text()
    for name, (changes, told) in REFUSED.items():
        (hf_folder / "config.json").write_text(config)
        change_config(hf_folder, **changes)
        code, _, err = vlm("convert", "from-hf", hf_folder, tmp_path / "model")
        assert (code, told in err, len(err.splitlines())) == (2, True, 1), (name, err)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_folders_that_are_not_whole_are_refused_by_name(hf_folder: Path, tmp_path: Path, vlm: Vlm) -> None:
    def refused(change: Any, told: str) -> None:
        folder = shutil.copytree(hf_folder, tmp_path / "broken")
        change(folder)
        code, _, err = vlm("convert", "from-hf", folder, tmp_path / "model")
        assert (code, told in err, len(err.splitlines())) == (2, True, 1), err
        shutil.rmtree(folder)

    def pickled(folder: Path, name: str) -> None:
        (folder / "model.safetensors").unlink()
        torch.save({"x": torch.ones(1)}, folder / name)

    def lack(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights["model.norm.weight"], weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors")

    def cut(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:-100])

    refused(lambda folder: pickled(folder, "pytorch_model.bin"), "pytorch_model.bin, a pickle, which can run code")
    refused(lambda folder: pickled(folder, "model.safetensors"), "model.safetensors is a pickle under another name")
    refused(lambda folder: (folder / "model.safetensors").unlink(), "has no weights; it must hold model.safetensors")
    refused(lambda folder: (folder / "config.json").unlink(), "lacks config.json")
    refused(lambda folder: (folder / "config.json").write_text("[]"), "config.json holds list instead of settings")
    refused(lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json; make one with transformers")
    refused(lambda folder: (folder / "tokenizer.json").write_text("{}"), "is it a tokenizer.json")
    refused(lack, "the weights lack model.norm.weight, lm_head.weight, which config.json asks for")
    refused(cut, "is no whole safetensors file")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_folder_in_the_way_stays(hf_folder: Path, tmp_path: Path, vlm: Vlm) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    code, _, err = vlm("convert", "from-hf", hf_folder, tmp_path / "mine")
    assert code == 2
    assert "mine exists and is not empty" in err
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_a_name_is_fetched_from_the_hub_and_its_absence_is_one_line(
    hf_folder: Path, tmp_path: Path, vlm: Vlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(name)
        assert ignore_patterns[0] == "*/*"
        assert not any("bin" in pattern or "py" in pattern for pattern in allow_patterns)
        if name != "Qwen/Qwen3-MoE":
            raise ConnectionError("no route to host\nand much more")
        return str(hf_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert vlm("convert", "from-hf", "Qwen/Qwen3-MoE", tmp_path / "model")[0] == 0
    code, _, err = vlm("convert", "from-hf", "Qwen/Other", tmp_path / "other")
    assert code == 2
    assert err.startswith(
        "vlm: error: no folder Qwen/Other, and the hub does not give a model of that name (no route to"
    )
    assert len(err.splitlines()) == 1
    assert vlm("convert", "from-hf", tmp_path / "nowhere", tmp_path / "other")[2].startswith("vlm: error: no folder /")
    assert asked == ["Qwen/Qwen3-MoE", "Qwen/Other"]


def test_older_configs_name_rotary_positions_otherwise() -> None:
    old = {"architectures": ["LlamaForCausalLM"], "vocab_size": 9, **SIZES, "rope_theta": 5e5}
    assert read_architecture(old)[0].rope_theta == 5e5
    scaled = read_architecture(old | {"rope_scaling": {"type": "linear", "factor": 2}})[0]
    assert (scaled.rope_theta, scaled.rope_scaling) == (5e5, RopeScaling(kind="linear", factor=2.0))
    yarn = read_architecture(old | {"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 16}})[0]
    assert yarn.rope_scaling == RopeScaling(kind="yarn", factor=4.0, original_positions=16)


# As configs on the hub are written: much is left out, much is said that changes nothing.
ON_THE_HUB: dict[str, dict[str, Any]] = {
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "decoder_sparse_step": 1,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "output_router_logits": False,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "SmolLM2-135M": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
    },
    "OLMoE-1B-7B": {
        "architectures": ["OlmoeForCausalLM"],
        "clip_qkv": None,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "max_position_embeddings": 4096,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 50304,
    },
}
# width, heads, key heads, head width, layers; experts, chosen, inner width; the head is the embedding
SIZES_ON_THE_HUB = {
    "Qwen3-30B-A3B": (2048, 32, 4, 128, 48, 128, 8, 768, False),
    "Qwen2.5-0.5B": (896, 14, 2, 64, 24, 1, 1, 4864, True),
    "SmolLM2-135M": (576, 9, 3, 64, 30, 1, 1, 1536, True),
    "OLMoE-1B-7B": (2048, 16, 16, 128, 16, 64, 8, 1024, False),
}


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_configs_as_they_are_on_the_hub_are_understood(name: str) -> None:
    config, is_tied = read_architecture(ON_THE_HUB[name])
    experts = config.experts
    sizes = (config.width, config.num_heads, config.num_kv_heads, config.head_width, config.num_layers)
    assert (*sizes, experts.num_experts, experts.top_k, experts.hidden, is_tied) == SIZES_ON_THE_HUB[name]
    assert config.max_positions == ON_THE_HUB[name]["max_position_embeddings"]
    assert config.rope_theta == ON_THE_HUB[name]["rope_theta"]
    assert config.chunk is None
