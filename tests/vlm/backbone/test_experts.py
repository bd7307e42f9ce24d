import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlm.backbone import dispatch
from vlm.backbone.cost import flop_counter
from vlm.backbone.experts import ExpertsConfig, SparseFeedForward
from vlm.backbone.grouped import can_group


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


@pytest.mark.parametrize("num_tokens", [1, 37])
def test_experts_by_grouped_products_equal_a_loop_over_tokens(monkeypatch: pytest.MonkeyPatch, num_tokens: int) -> None:
    """What runs on a GPU; a CPU has it for float32."""
    monkeypatch.setattr(dispatch, "runs_grouped", lambda *_: True)
    layer, x = layer_of(), torch.randn(num_tokens, 16, requires_grad=True)
    inputs, out_grad = [x, *layer.parameters()], torch.randn(num_tokens, 16)
    fast, slow = layer(x)[0], experts_by_loop(layer, x)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    grads = torch.autograd.grad(fast, inputs, out_grad), torch.autograd.grad(slow, inputs, out_grad)
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_a_width_that_grouped_products_refuse_runs_without_them() -> None:
    x, weight = torch.randn(20, 10, device="cuda", dtype=torch.bfloat16), torch.empty(2, 8, 10, device="cuda")
    assert not can_group(x, weight)


def test_experts_of_more_rows_than_a_piece_equal_a_loop_over_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PIECE_ROWS", 3)
    layer, x = layer_of().double(), torch.randn(37, 16, dtype=torch.float64, requires_grad=True)
    inputs, out_grad = [x, *layer.parameters()], torch.randn(37, 16, dtype=torch.float64)
    grads = [torch.autograd.grad(out, inputs, out_grad) for out in (layer(x)[0], experts_by_loop(layer, x))]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("few", [0, 64], ids=["expert by expert", "grouped"])
def test_without_gradients_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(dispatch, "FEW_ROWS", few)
    layer, x = layer_of(), torch.randn(37, 16)
    with torch.no_grad():
        alone = layer(x)[0]
    torch.testing.assert_close(alone, layer(x)[0])


def test_frozen_experts_pass_the_gradient_on() -> None:
    layer, x = layer_of().double(), torch.randn(9, 16, dtype=torch.float64, requires_grad=True)
    layer.experts.requires_grad_(False)
    grads = [torch.autograd.grad(out.sum(), x) for out in (layer(x)[0], experts_by_loop(layer, x))]
    torch.testing.assert_close(*grads)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own check reads it
@pytest.mark.parametrize("learns", [True, False])
def test_the_operations_hold_to_the_rules_of_torch_library(learns: bool) -> None:
    layer, x = layer_of().double(), torch.randn(9, 16, dtype=torch.float64, requires_grad=True)
    layer.experts.requires_grad_(learns)
    routing, experts = layer.gate.choose(x.detach()), layer.experts
    weight = routing.weight.detach().requires_grad_()
    args = (x, weight, routing.order, routing.ends, experts.gate_up_proj, experts.down_proj, True)
    torch.library.opcheck(torch.ops.conceptvlm.experts.default, args)


@pytest.mark.parametrize("learns", [True, False], ids=["learning", "frozen"])
def test_both_ways_to_run_experts_count_the_same_flops(monkeypatch: pytest.MonkeyPatch, learns: bool) -> None:
    """A formula for the opaque operations, torch's own for the grouped products and the weighted sum."""
    counts = []
    for grouped in (False, True):
        monkeypatch.setattr(dispatch, "runs_grouped", lambda *_, grouped=grouped: grouped)
        layer, x = layer_of(), torch.randn(37, 16, requires_grad=True)
        layer.experts.requires_grad_(learns)
        with flop_counter() as forward:
            out = layer(x)[0]
        with flop_counter() as backward:
            out.sum().backward()
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    assert counts[0] == counts[1]


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
