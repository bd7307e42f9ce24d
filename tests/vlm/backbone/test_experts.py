import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.backbone.experts import ExpertsConfig, SparseFeedForward


def layer_of(num_experts: int = 5, top_k: int = 2, normalize: bool = True, width: int = 16) -> SparseFeedForward:
    config = ExpertsConfig(num_experts=num_experts, top_k=top_k, hidden=24, normalize_top_k=normalize)
    layer = SparseFeedForward(width, config)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def experts_by_loop(layer: SparseFeedForward, x: Tensor) -> Tensor:
    """Token by token, expert by expert."""
    out = []
    for token in x:
        weight, chosen = (layer.gate.weight @ token).softmax(-1).topk(layer.gate.top_k)
        if layer.gate.normalize:
            weight = weight / weight.sum()
        total = torch.zeros_like(token)
        for w, e in zip(weight, chosen.tolist(), strict=True):
            gate, up = (layer.experts.gate_up_proj[e] @ token).chunk(2)
            total = total + w * (layer.experts.down_proj[e] @ (F.silu(gate) * up))
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 37])
def test_grouped_experts_equal_a_loop_over_tokens(
    dtype: torch.dtype, tolerance: float, normalize: bool, num_tokens: int
) -> None:
    layer = layer_of(normalize=normalize).to(dtype)
    x = torch.randn(num_tokens, 16, dtype=dtype, requires_grad=True)
    inputs = [x, *layer.parameters()]
    out_grad = torch.randn(num_tokens, 16, dtype=dtype)
    fast, _ = layer(x)
    slow = experts_by_loop(layer, x)
    torch.testing.assert_close(fast, slow, atol=tolerance, rtol=tolerance)
    grads = torch.autograd.grad(fast, inputs, out_grad), torch.autograd.grad(slow, inputs, out_grad)
    torch.testing.assert_close(*grads, atol=10 * tolerance, rtol=10 * tolerance)


def test_an_expert_without_tokens_is_no_fault() -> None:
    layer = layer_of(num_experts=8, top_k=1)
    x = torch.randn(2, 16)
    torch.testing.assert_close(layer(x)[0], experts_by_loop(layer, x))


def test_a_width_that_grouped_products_refuse_gives_the_same_result() -> None:
    layer = layer_of(width=10)
    x = torch.randn(20, 10)
    torch.testing.assert_close(layer(x)[0], experts_by_loop(layer, x))


def test_load_counts_the_tokens_of_each_expert() -> None:
    layer, x = layer_of(), torch.randn(40, 16)
    routing = layer.gate.choose(x)
    assert routing.load.tolist() == [(routing.chosen == e).sum().item() for e in range(5)]
    assert not routing.load.requires_grad


def test_the_router_computes_in_float32_under_autocast() -> None:
    layer, x = layer_of(), torch.randn(40, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out, routing = layer(x)
    assert out.dtype == torch.bfloat16
    assert routing.prob.dtype == torch.float32
    torch.testing.assert_close(routing.chosen, layer.gate.choose(x).chosen)
    torch.testing.assert_close(out.float(), experts_by_loop(layer, x), atol=0.05, rtol=0.05)


def test_more_chosen_experts_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="num_experts=4, got 5"):
        ExpertsConfig(num_experts=4, top_k=5, hidden=8)
