import re

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.batch import Batch, collate
from tests.vlm.training.ten_steps import model, rows
from vlm.training.module import VLMTrainingModule
from vlm.training.optim import OptimizerConfig
from vlm.training.parts import choose_learning, learning_rates, rest_frozen
from vlm.training.summary import summary_rows


def layer() -> nn.ModuleDict:
    return nn.ModuleDict({"gate": nn.Linear(2, 3, bias=False), "norm": nn.BatchNorm1d(2)})


@pytest.fixture
def towers() -> nn.ModuleDict:
    """Two towers of two layers each, and a part whose name begins as that of one of them."""
    left, right = (nn.ModuleList([layer(), layer()]) for _ in range(2))
    return nn.ModuleDict({"left": left, "right": right, "left_most": nn.Linear(2, 2, bias=False)})


def learns(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("train_only", "freeze", "expected"),
    [
        (["left"], None, ["left.0.gate", "left.0.norm", "left.1.gate", "left.1.norm"]),
        (["left.1", "right.0.gate.weight"], None, ["left.1.gate", "left.1.norm", "right.0.gate"]),
        (["*.gate"], None, ["left.0.gate", "left.1.gate", "right.0.gate", "right.1.gate"]),
        (["left.?.norm.*s"], None, ["left.0.norm", "left.1.norm"]),
        (None, ["left", "*.norm"], ["right.0.gate", "right.1.gate", "left_most"]),
        (["left", "left_most"], ["*.1", "right"], ["left.0.gate", "left.0.norm", "left_most"]),
        ([], None, []),
    ],
)
def test_names_and_patterns_choose_what_learns(
    towers: nn.ModuleDict, train_only: list[str] | None, freeze: list[str] | None, expected: list[str]
) -> None:
    choose_learning(towers, train_only, freeze)
    assert list(dict.fromkeys(name.rsplit(".", 1)[0] for name in learns(towers))) == expected


def test_a_pattern_may_choose_a_weight_and_leave_its_neighbour(towers: nn.ModuleDict) -> None:
    choose_learning(towers, ["*.bias"], None)
    assert learns(towers) == [f"{tower}.{index}.norm.bias" for tower in ("left", "right") for index in (0, 1)]


@pytest.mark.parametrize(
    ("name", "near"),
    [("rihgt", "right"), ("gate", "left.0.gate"), ("left.0.nrom", "left.0.norm"), ("colour", None), ("up.*", None)],
)
def test_a_name_of_no_part_is_refused_with_the_parts_and_the_nearest_name(
    towers: nn.ModuleDict, name: str, near: str | None
) -> None:
    told = f"names '{name}', which is no part of this model; parts are left, left_most, right"
    told = re.escape(told + (f"; the nearest name is '{near}'" if near else "")) + "$"
    with pytest.raises(ValueError, match=f"^model.train_only {told}"):
        choose_learning(towers, ["left", name], None)
    with pytest.raises(ValueError, match=f"^model.freeze {told}"):
        choose_learning(towers, None, [name])
    with pytest.raises(ValueError, match=f"^optimizer.lr_of {told}"):
        learning_rates(towers, 1.0, {name: 2.0})


def test_the_longest_name_gives_the_rate(towers: nn.ModuleDict) -> None:
    choose_learning(towers, None, ["right.1"])
    rates = learning_rates(towers, 1.0, {"left": 2.0, "left.1": 3.0, "*t.?.norm": 4.0})
    assert list(rates) == learns(towers)
    by_module = {name.rsplit(".", 1)[0]: rate for name, rate in rates.items()}
    assert by_module == {
        "left.0.gate": 2.0,
        "left.0.norm": 4.0,
        "left.1.gate": 3.0,
        "left.1.norm": 4.0,
        "right.0.gate": 1.0,
        "right.0.norm": 4.0,
        "left_most": 1.0,
    }


def test_two_names_of_one_length_must_agree(towers: nn.ModuleDict) -> None:
    assert set(learning_rates(towers, 1.0, {"left.*": 2.0, "*.gate": 2.0}).values()) == {1.0, 2.0}
    with pytest.raises(ValueError, match=r"gives left\.0\.gate\.weight two rates, 2 by 'left\.\*' and 3 by '\*\.gate'"):
        learning_rates(towers, 1.0, {"left.*": 2.0, "*.gate": 3.0})
    # One longer than both settles it.
    rates = learning_rates(towers, 1.0, {"left.*": 2.0, "*.gate": 3.0, "left.?.gate": 5.0})
    assert (rates["left.1.gate.weight"], rates["right.1.gate.weight"]) == (5.0, 3.0)


def test_a_rate_that_would_do_nothing_is_refused(towers: nn.ModuleDict) -> None:
    with pytest.raises(ValueError, match="'left', but longer names give all its weights their rates"):
        learning_rates(towers, 1.0, {"left": 2.0, "left.?": 3.0})
    choose_learning(towers, None, ["left"])
    for name in ("left", "left.0.gate"):
        with pytest.raises(ValueError, match=rf"lr_of names '{name}', of which nothing learns"):
            learning_rates(towers, 1.0, {name: 2.0})


def test_only_what_is_wholly_frozen_is_in_evaluation_mode(towers: nn.ModuleDict) -> None:
    towers.get_submodule("left.0").add_module("drop", nn.Dropout())
    choose_learning(towers, ["right.1", "left.1.norm.weight"], None)
    rest_frozen(towers.train())
    still = [name for name, part in towers.named_modules() if name and not part.training]
    left = ["left.0", "left.0.gate", "left.0.norm", "left.0.drop", "left.1.gate"]
    assert still == [*left, "right.0", "right.0.gate", "right.0.norm", "left_most"]


def test_a_training_module_holds_frozen_parts_in_evaluation_mode() -> None:
    whole = model()
    module = VLMTrainingModule(
        whole.vlm.config, OptimizerConfig(), train_only=["connector", "backbone.decoder"], freeze=["connector.norm"]
    ).train()
    assert module.vlm.backbone.decoder.training
    assert module.vlm.backbone.training
    assert not module.vlm.backbone.encoder.training
    assert not module.vlm.encoder.training
    assert not module.vlm.get_submodule("connector.norm").training
    assert not module.eval().vlm.backbone.decoder.training


def test_the_table_has_every_weight_in_one_part_with_its_state_and_rate() -> None:
    whole = model()
    optimizer = OptimizerConfig(lr=0.5, lr_of={"encoder": 0.25, "*.joint_q_proj": 0.125})
    module = VLMTrainingModule(whole.vlm.config, optimizer, freeze=["backbone.chunker", "connector.*.weight"])
    table = {part: (int(count.replace(",", "")), state, lr) for part, count, state, lr in summary_rows(module)}
    vlm = module.vlm
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in vlm.named_modules()}
    biases = 12 + 16 + 16
    joint = sum(p.numel() for name, p in vlm.named_parameters() if ".joint_" in name)
    frozen = sizes["backbone.chunker"] + sizes["connector"] - biases
    assert table == {
        "encoder": (sizes["encoder"], "learns", "0.25"),
        "connector": (sizes["connector"], f"{biases} learn", "0.5"),
        "embed": (sizes["embed"], "learns", "0.5"),
        "backbone encoder layers": (sizes["backbone.encoder"], "learns", "0.5"),
        "chunker": (sizes["backbone.chunker"], "frozen", ""),
        "concept layers": (sizes["backbone.concept"], "learns", "0.5"),
        "joint projections": (joint, "learns", "0.125 to 0.5"),
        "decoder layers": (sizes["backbone.decoder"] - joint, "learns", "0.5"),
        "last norm": (16, "learns", "0.5"),
        "all": (sizes[""], f"{sizes[''] - frozen:,} learn", "0.125 to 0.5"),
    }


def batch_of(module: VLMTrainingModule, kind: str) -> Batch:
    return collate(rows(0, kind), module.vlm.encoder.spec)


@pytest.mark.parametrize("part", ["connector", "encoder", "embed", "backbone.chunker", "backbone.concept.0.mlp.gate"])
@pytest.mark.parametrize("kind", ["text", "picture"])
def test_each_weight_of_a_part_that_learns_alone_gets_a_gradient(part: str, kind: str) -> None:
    module = model()
    choose_learning(module.vlm, [part], None)
    module.train().training_step(batch_of(module, kind), 0)["loss"].backward()
    with_gradient = [name for name, p in module.vlm.named_parameters() if p.grad is not None]
    assert with_gradient == learns(module.vlm)
    assert all(name.startswith(part) for name in with_gradient)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers
def test_a_step_without_a_gradient_for_anything_that_learns_changes_nothing() -> None:
    module = model()
    module.vlm.encoder.spare = nn.Parameter(torch.ones(3))  # as a tower's head, which no picture goes through
    choose_learning(module.vlm, ["encoder.spare"], None)
    before: dict[str, Tensor] = {name: value.clone() for name, value in module.vlm.state_dict().items()}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([batch_of(module, "text"), batch_of(module, "picture")], batch_size=None))
    assert trainer.global_step == 2
    assert all(torch.equal(before[name], value) for name, value in module.vlm.state_dict().items())
