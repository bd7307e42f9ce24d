"""What a Hugging Face config.json means in our terms. In: its settings. Out: a BackboneConfig without a chunker.

Every setting is either expressed, or known to change nothing that we compute, or refused by name. Defaults are those of the
architectures in `transformers`, as configs on the hub leave them out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlm.backbone import BackboneConfig, ExpertsConfig
from vlm.backbone.attention import QueryKeyNorm
from vlm.convert.rotary import read_rotary

DENSE = "intermediate_size"


@dataclass(frozen=True)
class Architecture:
    """How one architecture differs from the others."""

    qk_norm: QueryKeyNorm
    defaults: dict[str, Any]  # of settings that a config may leave out
    expert_hidden: str | None = None  # the setting with an expert's inner width; None: the layers are dense
    qkv_bias: bool = False  # biases on queries, keys and values, whatever the config says


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture(None, {"max_position_embeddings": 2048}),
    "Qwen2ForCausalLM": Architecture(None, {"max_position_embeddings": 32768}, qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("head", {"max_position_embeddings": 32768, "head_dim": 128}),
    "Qwen3MoeForCausalLM": Architecture(
        "head", {"max_position_embeddings": 32768, "num_experts_per_tok": 8}, expert_hidden="moe_intermediate_size"
    ),
    "OlmoeForCausalLM": Architecture(
        "all", {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_experts_per_tok": 8}, expert_hidden=DENSE
    ),
}
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", DENSE)
READ = {
    "architectures", "model_type", "head_dim", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps",
    "tie_word_embeddings", "attention_bias", "num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob",
    "moe_intermediate_size", "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", *NEEDED,
}  # fmt: skip
# How a model was made or is run elsewhere, and names: nothing of it changes what the weights compute.
WITHOUT_EFFECT = {
    "_name_or_path", "bos_token_id", "dtype", "eos_token_id", "id2label", "initializer_range", "is_llama_config",
    "label2id", "output_router_logits", "pad_token_id", "pretraining_tp", "return_dict", "router_aux_loss_coef",
    "torch_dtype", "transformers.js_config", "transformers_version", "use_cache",
}  # fmt: skip
# Settings that name something we lack, unless they have the value that switches it off.
SWITCHED_OFF: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "hidden_act": lambda value, _: value == "silu",
    "attention_dropout": lambda value, _: not value,
    "mlp_bias": lambda value, _: not value,
    "clip_qkv": lambda value, _: value is None,
    "use_sliding_window": lambda value, _: not value,
    # Qwen configs have a window's size also where no layer uses one.
    "sliding_window": lambda value, config: value is None or config.get("use_sliding_window") is False,
    "max_window_layers": lambda value, config: not config.get("use_sliding_window"),
    "layer_types": lambda value, _: value is None or set(value) <= {"full_attention"},
    "decoder_sparse_step": lambda value, _: value == 1,
    "mlp_only_layers": lambda value, _: not value,
}


def read_architecture(
    config: dict[str, Any], layers: tuple[int, int, int] | None = None
) -> tuple[BackboneConfig, bool]:
    """The backbone, and whether the head is the embedding.

    Args:
        config: of a config.json.
        layers: how many layers are called encoder, concept and decoder; for a plain model these are names alone. The
            first and the last are the encoder and the decoder where None.

    Raises:
        ValueError: the architecture is unknown, or a setting cannot be expressed; names it.
    """
    names = config.get("architectures") or []
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise ValueError(f"config.json has architectures {names}; those that are known: {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[names[0]]
    refuse_unknown(config, names[0])
    given = kind.defaults | {key: value for key, value in config.items() if value is not None}
    if missing := [name for name in NEEDED if name not in given]:
        raise ValueError(f"config.json lacks {', '.join(missing)}, which {names[0]} needs")
    heads, head_width = given["num_attention_heads"], given.get("head_dim")
    num_layers = given["num_hidden_layers"]
    split = default_split(num_layers) if layers is None else layers
    if min(split) < 0 or sum(split) != num_layers:
        raise ValueError(
            f"--layers {','.join(map(str, split))} makes {sum(split)} layers and the model has {num_layers}; give encoder, "
            "concept and decoder layers that sum to it"
        )
    theta, scaling = read_rotary(given)
    bias = given.get("attention_bias", False)
    return BackboneConfig(
        width=given["hidden_size"],
        num_heads=heads,
        num_kv_heads=given.get("num_key_value_heads", heads),
        head_width=given["hidden_size"] // heads if head_width is None else head_width,
        encoder_layers=split[0],
        concept_layers=split[1],
        decoder_layers=split[2],
        experts=read_experts(given, kind, names[0]),
        chunk=None,
        qk_norm=kind.qk_norm,
        attention_bias="qkv" if kind.qkv_bias else "qkvo" if bias else None,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=given.get("rms_norm_eps", 1e-6),
        max_positions=given["max_position_embeddings"],
    ), bool(given.get("tie_word_embeddings", False))


def refuse_unknown(config: dict[str, Any], name: str) -> None:
    """Refuse settings that we cannot express; one that is null or false says that something is not so.

    Raises:
        ValueError: names the first of them with its value.
    """
    for key, value in config.items():
        if key in SWITCHED_OFF:
            if not SWITCHED_OFF[key](value, config):
                raise ValueError(f"config.json sets {key}: {value!r}, which this version cannot compute for {name}")
        elif key not in READ | WITHOUT_EFFECT and value is not None and value is not False:
            raise ValueError(
                f"config.json sets {key}: {value!r}, which is unknown for {name}; if it changes nothing that the model "
                "computes, take it out of the file"
            )


def read_experts(given: dict[str, Any], kind: Architecture, name: str) -> ExpertsConfig:
    """A layer's experts; a dense layer is one expert."""
    if kind.expert_hidden is None:
        if given.get("num_experts"):
            raise ValueError(f"config.json sets num_experts: {given['num_experts']}, but {name} is dense")
        return ExpertsConfig(num_experts=1, top_k=1, hidden=given[DENSE])
    count = given.get("num_experts", given.get("num_local_experts"))
    if count is None or kind.expert_hidden not in given:
        raise ValueError(f"config.json lacks num_experts or {kind.expert_hidden}, which {name} needs")
    if count == 1:
        raise ValueError("config.json sets num_experts: 1; a router over one expert is not known here")
    return ExpertsConfig(
        num_experts=count,
        top_k=given["num_experts_per_tok"],
        hidden=given[kind.expert_hidden],
        normalize_top_k=given.get("norm_topk_prob", False),
    )


def default_split(num_layers: int) -> tuple[int, int, int]:
    """One layer before and one behind the concept layers, where there are so many."""
    return (1, num_layers - 2, 1) if num_layers >= 3 else (0, num_layers, 0)
