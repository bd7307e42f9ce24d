from dataclasses import replace

import pytest
import torch
from torch import nn

from vlm.training.optim import OptimizerConfig, build_optimizer, parameter_groups, schedule


def test_rate_rises_linearly_then_falls_to_the_final_fraction() -> None:
    share = schedule(OptimizerConfig(warmup_steps=4, final_fraction=0.1), max_steps=14)
    assert [share(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert share(9) == pytest.approx(0.55)
    assert share(14) == pytest.approx(0.1)
    assert share(100) == pytest.approx(0.1)


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    decayed, kept = parameter_groups(model, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 4)]
    assert [tuple(p.shape) for p in kept["params"]] == [(5, 4), (3,), (3,), (3,)]


def test_a_wholly_frozen_model_is_refused() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(model, OptimizerConfig(), 10)


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("inf"), float("nan")])
def test_a_rate_of_a_part_is_a_positive_number(rate: float) -> None:
    with pytest.raises(ValueError, match=f"the rate of encoder must be above 0, got {rate}; .* use model.freeze"):
        OptimizerConfig(lr_of={"encoder": rate})


def three_parts() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Embedding(5, 3)})


def test_groups_are_those_of_the_rates_each_with_and_without_decay_whatever_the_order_of_the_names() -> None:
    model = three_parts()
    names = {id(p): name for name, p in model.named_parameters()}
    for lr_of in ({"a": 1e-4, "c": 1e-2}, {"c": 1e-2, "a": 1e-4}):
        optimizer, _ = build_optimizer(model, OptimizerConfig(lr=1e-3, lr_of=lr_of, warmup_steps=0), 10)
        found = [
            ([names[id(p)] for p in group["params"]], group["lr"], group["weight_decay"])
            for group in optimizer.param_groups
        ]
        assert found == [
            (["b.weight"], 1e-3, 0.1),  # first, as the log shows the rate of the first
            (["b.bias"], 1e-3, 0.0),
            (["c.weight"], 1e-2, 0.0),
            (["a.weight"], 1e-4, 0.1),
            (["a.bias"], 1e-4, 0.0),
        ]


def test_parts_with_rates_of_their_own_learn_as_with_an_optimizer_of_their_own() -> None:
    model, twin = three_parts(), three_parts()
    rates = {"a": 1e-2, "b": 1e-3, "c": 1e-1}
    config = OptimizerConfig(lr=1e-3, lr_of={"a": 1e-2, "c": 1e-1}, warmup_steps=2, final_fraction=0.0)
    pairs = [build_optimizer(model, config, 5)]
    pairs += [build_optimizer(twin[part], replace(config, lr=lr, lr_of={}), 5) for part, lr in rates.items()]
    for _ in range(5):
        for p, other in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            other.grad = p.grad.clone()
        for optimizer, scheduler in pairs:
            optimizer.step()
            scheduler.step()
    moved = [
        (p - start).abs().max().item() for p, start in zip(model.parameters(), three_parts().parameters(), strict=True)
    ]
    assert min(moved) > 1e-4
    assert all(torch.equal(p, other) for p, other in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(("field", "value"), [("lr", 0.0), ("warmup_steps", -1), ("final_fraction", 2.0)])
def test_impossible_settings_are_refused_with_their_value(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"optimizer.{field}.*{value}"):
        OptimizerConfig(**{field: value})


def test_optimizer_leaves_frozen_parameters_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer, _ = build_optimizer(model, OptimizerConfig(), 10)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model[1].parameters()}
    assert isinstance(optimizer, torch.optim.AdamW)


def test_the_fused_optimizer_steps_as_the_plain_one_does() -> None:
    torch.manual_seed(0)
    model, config = nn.Linear(30, 20), OptimizerConfig(lr=1e-2, warmup_steps=0)
    fused, _ = build_optimizer(model, config, max_steps=5)
    assert fused.defaults["fused"]
    plain_weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    plain = torch.optim.AdamW(
        [{"params": [plain_weights[0]], "weight_decay": 0.1}, {"params": [plain_weights[1]], "weight_decay": 0.0}],
        lr=1e-2,
        betas=config.betas,
    )
    for _ in range(5):
        for p, twin in zip(model.parameters(), plain_weights, strict=True):
            p.grad = torch.randn_like(p)
            twin.grad = p.grad.clone()
        fused.step()
        plain.step()
    torch.testing.assert_close(list(model.parameters()), plain_weights)
