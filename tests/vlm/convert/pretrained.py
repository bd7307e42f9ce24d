"""Small pretrained models as `transformers` makes and saves them, with tokenizers of their own."""

import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TEXTS = ["the red square is above the blue circle", "a green star, and 12 stars!\nnothing else", "<|im_end|> <|end|>"]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 2}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
WIDE_RAMP = {"rope_theta": 100.0, "beta_fast": 2.0, "beta_slow": 0.01}  # it ends beyond the last pair
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# name -> the architecture's prefix in transformers, and what differs from SIZES
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3 moe": ("Qwen3Moe", {**EXPERTS, "head_dim": 8, "moe_intermediate_size": 12, "norm_topk_prob": True}),
    "qwen3 moe, tied, biased, raw top-k, yarn": (
        "Qwen3Moe",
        {
            **EXPERTS,
            "head_dim": 8,
            "moe_intermediate_size": 12,
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "rope_parameters": YARN,
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "qwen3, another theta": ("Qwen3", {"head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn with an amplitude": (
        "Qwen2",
        {"rope_parameters": {**YARN, **WIDE_RAMP, "attention_factor": 1.3, "truncate": False}},
    ),
    "llama": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama, biased, own head width, linear": (
        "Llama",
        {
            "attention_bias": True,
            "head_dim": 6,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
        },
    ),
    "llama, llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, yarn with two scales": ("Llama", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}}),
    "olmoe": ("Olmoe", {**EXPERTS, "norm_topk_prob": False}),
    "olmoe, normalised, one key head for each": (
        "Olmoe",
        {**EXPERTS, "norm_topk_prob": True, "num_key_value_heads": 4},
    ),
}


class InFloat64(TorchFunctionMode):
    """Whatever asks for float32 gets float64: transformers' norms, angles and routing are float32 by their code."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        raised = [torch.float64 if value is torch.float32 else value for value in args]
        named = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return func(*raised, **named)


def precision_of(dtype: torch.dtype) -> AbstractContextManager[object]:
    return InFloat64() if dtype == torch.float64 else nullcontext()


def make_tokenizer(special: Iterable[str] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")) -> tokenizers.Tokenizer:
    """Bytes and a few merges; special tokens stand at the end, as in Qwen's."""
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False))
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return fast


def make_model(variant: str, dtype: torch.dtype, vocab_size: int = 300, **changes: Any) -> Any:
    prefix, own = VARIANTS[variant]
    settings = {"vocab_size": vocab_size, "attn_implementation": "eager", **SIZES, **own, **changes}
    if "num_experts" in settings:
        settings["experts_implementation"] = "eager"
    torch.manual_seed(0)
    with precision_of(dtype):
        model = getattr(transformers, f"{prefix}ForCausalLM")(getattr(transformers, f"{prefix}Config")(**settings))
    model.to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model


def save(model: Any, folder: Path, tokenizer: tokenizers.Tokenizer | None = None, **options: Any) -> Path:
    """A Hugging Face folder, with a chat template."""
    model.save_pretrained(folder, **options)
    (make_tokenizer() if tokenizer is None else tokenizer).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|endoftext|>"}))
    (folder / "chat_template.jinja").write_text("{{ '<|im_start|>' }}")
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
