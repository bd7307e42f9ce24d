"""The last layers of a part, rates that fall from layer to layer, and parts that begin to learn later."""

import pytest
import timm
import torch
from torch import nn

from vlm.training.parts import choose_learning, layers_of, learning_rates, rest_frozen, weights_of
from vlm.training.unfreeze import Unfreezing


class Tower(nn.Module):
    """Something before four blocks, and something behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(2))
        self.stem = nn.Linear(2, 2, bias=False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)) for _ in range(4))
        self.norm = nn.BatchNorm1d(2)


@pytest.fixture
def model() -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": Tower(), "connector": nn.Linear(2, 2)})


def learns(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_last_layers_are_those_and_what_lies_behind_them(model: nn.ModuleDict) -> None:
    choose_learning(model, ["connector", "encoder:last2"], None)
    expected = ("connector.", "encoder.blocks.2.", "encoder.blocks.3.", "encoder.norm.")
    assert learns(model) == {name for name, _ in model.named_parameters() if name.startswith(expected)}


def test_a_list_itself_may_be_named_and_the_last_layers_frozen(model: nn.ModuleDict) -> None:
    choose_learning(model, None, ["encoder.blocks:last3"])
    assert learns(model) == {
        name
        for name, _ in model.named_parameters()
        if not name.startswith(tuple(f"encoder.blocks.{i}" for i in (1, 2, 3)))
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("encoder:last5", "encoder has 4 layers"),
        ("encoder:last0", "behind a colon stands last and a number, as in encoder:last4"),
        ("encoder:first2", "behind a colon stands last and a number"),
        ("connector:last1", "'connector', which has no list of layers"),
        ("encodr:last2", "'encodr', which is no part of this model"),
        ("encoder.*:last2", r"'encoder.\*', which has no list of layers"),
    ],
)
def test_layers_that_are_none_are_refused(model: nn.ModuleDict, name: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^model.freeze .*{told}"):
        choose_learning(model, None, [name])


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("test_vit", "encoder.blocks.5."),
        ("test_convnext", "encoder.stages.3."),
        ("test_efficientnet", "encoder.blocks.4."),
        ("test_resnet", "encoder.layer4.0."),
    ],
)
def test_layers_of_timm_models_are_blocks_or_stages(name: str, last: str) -> None:
    model = nn.ModuleDict({"encoder": timm.create_model(name, num_classes=0)})
    weights = [path for path, _ in model.named_parameters()]
    first = next(index for index, path in enumerate(weights) if path.startswith(last))
    assert weights_of(model, "encoder:last1", "test") == set(weights[first:])
    numbers = list(layers_of(model, "encoder", "test").values())
    assert numbers == sorted(numbers)


def test_rates_fall_from_layer_to_layer_also_from_rates_of_parts(model: nn.ModuleDict) -> None:
    rates = learning_rates(model, 1.0, {"encoder": 0.5, "encoder.blocks.3.2": 2.0}, {"encoder": 0.8})
    expected = {"connector": 1.0, "encoder.position": 0.5 * 0.8**4, "encoder.stem": 0.5 * 0.8**4, "encoder.norm": 0.5}
    expected |= {f"encoder.blocks.{i}": 0.5 * 0.8 ** (4 - (i + 1)) for i in range(4)} | {"encoder.blocks.3.2": 2.0}
    for path, rate in rates.items():
        longest = max((name for name in expected if path.startswith(name)), key=len)
        assert rate == pytest.approx(expected[longest]), path


@pytest.mark.parametrize(
    ("decay", "told"),
    [
        ({"connector": 0.8}, "asks for the layers of 'connector', which has no list"),
        ({"encoder": 0.8, "encoder.blocks": 0.9}, "'encoder' and 'encoder.blocks', which both hold"),
        ({"encodr": 0.8}, "'encodr', which is no part"),
    ],
)
def test_a_decay_that_makes_no_sense_is_refused(model: nn.ModuleDict, decay: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=f"^optimizer.layer_decay .*{told}"):
        learning_rates(model, 1.0, {}, decay)


def test_a_decay_of_a_frozen_part_is_refused(model: nn.ModuleDict) -> None:
    choose_learning(model, None, ["encoder"])
    with pytest.raises(ValueError, match="layer_decay names 'encoder', of which nothing learns"):
        learning_rates(model, 1.0, {}, {"encoder": 0.8})


def test_weights_wait_for_their_step_and_the_longest_name_counts(model: nn.ModuleDict) -> None:
    unfreezing = Unfreezing(model, {"encoder": 5, "encoder:last1": 2})
    weights = dict(model.named_parameters())
    behind = {"encoder.norm.weight", "encoder.norm.bias"} | {name for name in weights if ".blocks.3." in name}
    tower = {name for name in weights if name.startswith("encoder.")}

    def waiting(step: int) -> set[str]:
        return {name for name, weight in weights.items() if weight in unfreezing.waiting(step)}

    assert [waiting(step) for step in (0, 1, 2, 4, 5)] == [tower, tower, tower - behind, tower - behind, set()]


def test_what_waits_is_in_evaluation_mode_and_learns_no_less(model: nn.ModuleDict) -> None:
    unfreezing = Unfreezing(model, {"encoder": 2})
    rest_frozen(model.train(), unfreezing.waiting(1))
    assert not model["encoder"].training
    assert model["connector"].training
    rest_frozen(model.train(), unfreezing.waiting(2))
    assert model.get_submodule("encoder.norm").training
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ({"encoder": 0}, "encoder begins to learn after 0 steps; give 1 or more"),
        ({"encoder": 3, "connector": 4}, "nothing that learns in the first 3 steps"),
        ({"encodr": 3}, "'encodr', which is no part"),
    ],
)
def test_an_unfreezing_that_makes_no_sense_is_refused(model: nn.ModuleDict, steps: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=f"^model.unfreeze.*{told}"):
        Unfreezing(model, steps)


def test_a_frozen_part_cannot_begin_later_nor_after_the_run(model: nn.ModuleDict) -> None:
    with pytest.raises(ValueError, match=r"10 weights .* learn after 7 steps, but the run has 7"):
        Unfreezing(model, {"encoder:last2": 7}).require_within(7)
    Unfreezing(model, {"encoder": 7}).require_within(8)
    choose_learning(model, None, ["encoder"])
    with pytest.raises(ValueError, match=r"model.unfreeze names 'encoder', of which nothing learns"):
        Unfreezing(model, {"encoder": 3})
