import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from data.batch import Batch, collate
from tests.vlm.training.ten_steps import model, rows
from vlm.model import VisionLanguageModel
from vlm.training.lora import Adapters, LoraSettings
from vlm.training.module import VLMTrainingModule
from vlm.training.optim import OptimizerConfig, build_optimizer

BOTH = LoraSettings(targets=["backbone", "connector"], rank=4)


def with_adapters(settings: LoraSettings, train_only: list[str] | None = None) -> VLMTrainingModule:
    return VLMTrainingModule(model().vlm.config, OptimizerConfig(lr=0.1), train_only=train_only, lora=settings).train()


def batch_of(module: VLMTrainingModule) -> Batch:
    return collate(rows(0, "picture"), module.vlm.encoder.spec)


def step(module: VLMTrainingModule) -> None:
    optimizer, _ = build_optimizer(module.vlm, module.optimizer_config, 10)
    module.training_step(batch_of(module), 0)["loss"].backward()
    optimizer.step()


def logits(vlm: VisionLanguageModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return vlm.eval().logits(vlm(batch).hidden)


@pytest.fixture(scope="module")
def trained() -> tuple[VLMTrainingModule, dict[str, Tensor]]:
    """Adapters on experts, attention and connector after two steps, and the weights before."""
    torch.manual_seed(0)
    module = with_adapters(BOTH, train_only=["embed", "backbone.chunker"])
    before = {name: value.clone() for name, value in module.vlm.state_dict().items()}
    for _ in range(2):
        step(module)
    return module, before


def test_a_model_with_new_adapters_gives_what_it_gave_without() -> None:
    torch.manual_seed(0)
    plain = VLMTrainingModule(model().vlm.config, OptimizerConfig())
    torch.manual_seed(0)
    module = with_adapters(BOTH)
    batch = batch_of(module)
    torch.testing.assert_close(logits(module.vlm, batch), logits(plain.vlm, batch), rtol=0, atol=1e-6)


def test_adapters_learn_and_the_weights_under_them_stay_to_the_last_bit(
    trained: tuple[VLMTrainingModule, dict[str, Tensor]],
) -> None:
    module, before = trained
    changed = {name for name, value in module.vlm.state_dict().items() if not torch.equal(value, before[name])}
    adapters = {name for name in before if ".lora_" in name}
    # What train_only names learns by itself, also within a target.
    assert changed == adapters | {"embed.weight", "backbone.chunker.q_proj.weight", "backbone.chunker.k_proj.weight"}
    assert any(".experts." in name for name in adapters)
    assert any(".joint_q_proj." in name for name in adapters)
    assert any(name.startswith("connector.") for name in adapters)


def test_the_saved_model_has_the_adapters_merged_and_is_like_any_other(
    trained: tuple[VLMTrainingModule, dict[str, Tensor]], tmp_path: Path
) -> None:
    module, before = trained
    module.save_pretrained(tmp_path / "model")
    merged = VisionLanguageModel.from_pretrained(tmp_path / "model")
    assert merged.state_dict().keys() == model().vlm.state_dict().keys()
    batch = batch_of(module)
    found, expected = logits(merged, batch), logits(module.vlm, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    experts = "backbone.concept.0.mlp.experts."
    moved = merged.state_dict()[f"{experts}gate_up_proj"] - before[f"{experts}base_layer.base_layer.gate_up_proj"]
    assert moved.abs().max() > 1e-3  # or the equality would say nothing of the experts


def test_the_saved_adapters_are_read_by_peft_onto_the_model_they_began_with(
    trained: tuple[VLMTrainingModule, dict[str, Tensor]], tmp_path: Path
) -> None:
    module, before = trained
    assert module.adapters is not None
    module.adapters.save(tmp_path / "lora", "runs/base/model")
    base = model().vlm
    base.load_state_dict({name.replace(".base_layer", ""): v for name, v in before.items() if ".lora_" not in name})
    now = module.vlm.state_dict()
    for name in ("embed.weight", "backbone.chunker.q_proj.weight", "backbone.chunker.k_proj.weight"):
        base.get_parameter(name).data.copy_(now[name])
    read: Any = peft.PeftModel.from_pretrained(base, tmp_path / "lora")
    assert read.peft_config["default"].base_model_name_or_path == "runs/base/model"
    batch = batch_of(module)
    torch.testing.assert_close(logits(read.base_model.model, batch), logits(module.vlm, batch), rtol=0, atol=1e-6)


def test_recomputed_blocks_give_adapters_the_same_gradients() -> None:
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        module = with_adapters(BOTH)
        module.vlm.backbone.recompute_blocks = recompute
        module.training_step(batch_of(module), 0)["loss"].backward()
        found.append({name: p.grad for name, p in module.vlm.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (LoraSettings(targets=["backbone", "encoder"]), "'encoder', in which no weight takes an adapter"),
        (LoraSettings(targets=["backbone.chunker"]), "'backbone.chunker', in which no weight takes an adapter"),
        (LoraSettings(targets=["backbone.*.mlp.gate"]), "in which no weight takes an adapter"),
        (LoraSettings(targets=["backbon"]), "'backbon', which is no part of this model"),
        (LoraSettings(targets=["backbone"], dropout=0.1), "dropout is 0.1, and experts' adapters take none"),
    ],
)
def test_targets_that_take_no_adapter_are_refused(settings: LoraSettings, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        with_adapters(settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"targets": []}, "targets is empty"),
        ({"targets": ["backbone"], "rank": 0}, "rank must be at least 1, got 0"),
        ({"targets": ["backbone"], "alpha": 0.0}, "alpha must be above 0, got 0"),
        ({"targets": ["backbone"], "dropout": 1.0}, r"dropout is a share, in \[0, 1\), got 1"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=f"^model.lora.{told}"):
        LoraSettings(**settings)


def test_dropout_is_for_linear_layers_alone() -> None:
    module = with_adapters(LoraSettings(targets=["backbone.*.self_attn"], dropout=0.5))
    dropouts = [part for part in module.vlm.modules() if isinstance(part, nn.Dropout)]
    assert dropouts
    assert all(part.training for part in dropouts)


def test_without_peft_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'^model.lora needs the package peft; pip install "conceptvlm\[lora\]"'):
        with_adapters(BOTH)


class ReadsItsWeight(nn.Module):
    """A layer whose weight goes by its call, as in some of timm's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight)


def test_an_adapter_that_takes_no_part_is_refused_at_the_first_step() -> None:
    vlm: Any = model().vlm
    vlm.connector.down_proj = nn.Sequential(vlm.connector.down_proj, ReadsItsWeight())
    adapters = Adapters(vlm, LoraSettings(targets=["connector"]), ())
    batch = collate(rows(0, "picture"), vlm.encoder.spec)
    vlm.train()(batch).hidden.sum().backward()
    with pytest.raises(ValueError, match=r"1 adapters \(such as that of connector\.down_proj\.1\.layer\.weight\)"):
        adapters.require_gradients()
