"""With `chunk: null` it is Qwen3-MoE: the same weights give what `transformers` gives, in vectors, logits and gradients."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from vlm.backbone import BackboneConfig, BackboneOutput, ConceptMoE, Documents, ExpertsConfig

LENGTHS = [7, 1, 12, 4]
NUM_TOKENS, VOCABULARY = sum(LENGTHS), 23
VARIANTS: dict[str, dict[str, Any]] = {
    "normalised": {"norm_topk_prob": True},
    "not normalised": {"norm_topk_prob": False},
    "biased": {"norm_topk_prob": True, "attention_bias": True},
    "dense": {"mlp_only_layers": [0, 1, 2, 3]},
    "another theta": {"norm_topk_prob": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}
Grads = dict[str, Tensor | None]


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


def reference(dtype: torch.dtype, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "moe_intermediate_size": 12,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-5,
        "attn_implementation": "eager",
        "experts_implementation": "eager",
    }
    torch.manual_seed(0)
    with precision_of(dtype):
        model: Any = Qwen3MoeForCausalLM(Qwen3MoeConfig(**(settings | changes)))
    model.to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model


class Ours(nn.Module):
    """A plain backbone between an embedding and a head; its layers are the reference's, cut into the three stacks."""

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        super().__init__()
        is_dense = len(config.mlp_only_layers) > 0
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.backbone = ConceptMoE(
            BackboneConfig(
                width=config.hidden_size,
                num_heads=config.num_attention_heads,
                num_kv_heads=config.num_key_value_heads,
                head_width=config.head_dim,
                encoder_layers=1,
                concept_layers=2,
                decoder_layers=1,
                experts=ExpertsConfig(
                    num_experts=1 if is_dense else config.num_experts,
                    top_k=1 if is_dense else config.num_experts_per_tok,
                    hidden=config.intermediate_size if is_dense else config.moe_intermediate_size,
                    normalize_top_k=config.norm_topk_prob,
                ),
                chunk=None,
                attention_bias="qkvo" if config.attention_bias else None,
                rope_theta=config.rope_parameters["rope_theta"],
                norm_eps=config.rms_norm_eps,
            )
        )
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.to(dtype).eval()

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.backbone.encoder, *self.backbone.concept, *self.backbone.decoder]


STACKS = ("encoder.0", "concept.0", "concept.1", "decoder.0")


def our_name(theirs: str) -> str:
    """Where a weight of the reference is in ours: one to one, nothing is split or turned."""
    name = (
        theirs.replace("model.embed_tokens", "embed").replace("lm_head", "head").replace("model.norm", "backbone.norm")
    )
    for layer, stack in enumerate(STACKS):
        name = name.replace(f"model.layers.{layer}.", f"backbone.{stack}.")
    return name


def twins(dtype: torch.dtype, variant: str) -> tuple[Any, Ours]:
    theirs = reference(dtype, **VARIANTS[variant])
    ours = Ours(theirs.config, dtype)
    ours.load_state_dict({our_name(name): value for name, value in theirs.state_dict().items()})
    return theirs, ours


def token_ids() -> Tensor:
    return torch.randint(0, VOCABULARY, (NUM_TOKENS,), generator=torch.Generator().manual_seed(1))


def watched(blocks: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """For each block a list that its outputs are added to."""
    for block in blocks:
        seen: list[Tensor] = []

        def keep(_: nn.Module, inputs: object, out: Any, seen: list[Tensor] = seen) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out.squeeze(0))

        block.register_forward_hook(keep)
        yield seen


def run_theirs(model: Any, ids: Tensor, out_grad: Tensor) -> tuple[list[Tensor], Grads]:
    """Each document by itself; vectors after each layer, logits, and gradients by our names."""
    layers = list(watched([*model.model.layers, model.model.norm, model.lm_head]))
    with precision_of(out_grad.dtype):
        for part, grad in zip(ids.split(LENGTHS), out_grad.split(LENGTHS), strict=True):
            model(part[None], use_cache=False).logits[0].backward(grad)
    grads = {our_name(name): parameter.grad for name, parameter in model.named_parameters()}
    return [torch.cat(seen) for seen in layers], grads


def run_ours(model: Ours, ids: Tensor, out_grad: Tensor) -> tuple[list[Tensor], Grads]:
    """All documents in one packed row."""
    layers = list(watched([*model.blocks, model.backbone.norm, model.head]))
    out = model.backbone(model.embed(ids), Documents.from_lengths(LENGTHS))
    model.head(out.hidden).backward(out_grad)
    return [torch.cat(seen) for seen in layers], {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["fp64", "fp32"])
def test_packed_documents_give_the_vectors_logits_and_gradients_of_transformers_qwen3_moe(
    variant: str, dtype: torch.dtype, tolerance: float
) -> None:
    theirs, ours = twins(dtype, variant)
    out_grad = torch.randn(NUM_TOKENS, VOCABULARY, dtype=dtype, generator=torch.Generator().manual_seed(2))
    expected, expected_grads = run_theirs(theirs, token_ids(), out_grad)
    found, grads = run_ours(ours, token_ids(), out_grad)
    assert len(found) == 4 + 2
    assert min(vector.abs().max() for vector in expected) > 1
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert grads.keys() == expected_grads.keys()
    # In units of a gradient's largest entry, which is what rounding errors go by: small entries are sums that cancel.
    sizes = {name: 0.0 if grad is None else grad.abs().max().item() for name, grad in expected_grads.items()}
    assert min(sizes.values()) > 0
    scaled, expected_scaled = (
        {name: grad / sizes[name] for name, grad in every.items() if grad is not None}
        for every in (grads, expected_grads)
    )
    torch.testing.assert_close(scaled, expected_scaled, atol=tolerance, rtol=0)


def test_the_weights_have_the_names_and_shapes_of_a_qwen3_moe_checkpoint() -> None:
    theirs = {name: value.shape for name, value in reference(torch.float32).state_dict().items()}
    ours = {
        name: value.shape for name, value in Ours(reference(torch.float32).config, torch.float32).state_dict().items()
    }
    assert {our_name(name): shape for name, shape in theirs.items()} == ours


def test_steps_with_a_cache_give_the_logits_of_transformers_cache() -> None:
    theirs, ours = twins(torch.float64, "normalised")
    ids, cache, past = token_ids()[:10], ours.backbone.new_cache(1, 10), DynamicCache(config=theirs.config)
    for first, last in ((0, 6), (6, 7), (7, 10)):
        with torch.no_grad(), precision_of(torch.float64):
            expected = theirs(ids[None, first:last], past_key_values=past, use_cache=True).logits[0]
        new = Documents.from_lengths([last - first])
        with torch.no_grad():
            logits = ours.head(ours.backbone.prefill(ours.embed(ids[first:last]), new, cache).hidden)
        torch.testing.assert_close(logits, expected, atol=1e-9, rtol=1e-9)


def test_the_balance_loss_is_transformers_by_layer_and_divided_by_the_number_of_choices() -> None:
    """Theirs counts choices per token (top_k where all is even) over all layers as one; ours is a mean over layers."""
    theirs, ours = twins(torch.float64, "normalised")
    logits: list[Tensor] = []
    for layer in theirs.model.layers:
        layer.mlp.gate.register_forward_hook(lambda _, inputs, out: logits.append(out[0]))
    with torch.no_grad(), precision_of(torch.float64):
        theirs(token_ids()[None], use_cache=False)
        by_layer = [torch.as_tensor(load_balancing_loss_func((one,), num_experts=5, top_k=2)) for one in logits]
    out = ours.backbone(ours.embed(token_ids()), Documents.from_lengths([NUM_TOKENS]))
    assert isinstance(out, BackboneOutput)
    torch.testing.assert_close(out.losses["balance"], torch.stack(by_layer).mean() / 2, atol=1e-9, rtol=0)


def test_next_token_losses_are_equal() -> None:
    theirs, ours = twins(torch.float64, "not normalised")
    ids = token_ids()
    with torch.no_grad(), precision_of(torch.float64):
        expected = theirs(ids[None], labels=ids[None], use_cache=False).loss
    logits = ours.head(ours.backbone(ours.embed(ids), Documents.from_lengths([NUM_TOKENS])).hidden)
    torch.testing.assert_close(F.cross_entropy(logits[:-1], ids[1:]), expected, atol=1e-9, rtol=0)
