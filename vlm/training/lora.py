"""Low-rank adapters (LoRA, arXiv 2106.09685) on any part of a model, by peft.

In: a model and the names of parts. Linear layers and the experts' stacked weights of those parts get adapters, `W + alpha / rank * B A`; the
parts' own weights are frozen. Out: the model with the adapters merged into its weights, and the adapters alone, as peft keeps them.
The router and the chunker read their weights without calling the layer, as does the head, so no adapter would take part there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vlm.backbone.experts import Experts
from vlm.model import VisionLanguageModel
from vlm.model_folder import replace_folder, write_model_folder
from vlm.training.parts import weights_of
from vlm.weight_files import Size

NAME = "default"  # peft's name for the one adapter of a model
READ_DIRECTLY = ("head", "backbone.chunker")
STACKED = ("gate_up_proj", "down_proj")  # the weights of Experts


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Which parts get adapters, and of what size."""

    targets: list[str]  # names of parts, as in train_only
    rank: int = 8
    alpha: float = 16.0  # the adapters' product is scaled by alpha / rank
    dropout: float = 0.0  # of what goes into an adapter; experts take none

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("model.lora.targets is empty; name the parts that get adapters, such as [backbone]")
        if self.rank < 1:
            raise ValueError(f"model.lora.rank must be at least 1, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"model.lora.alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora.dropout is a share, in [0, 1), got {self.dropout}")


class Adapters:
    """Puts adapters into a model; reads them back, merged or alone.

    Args:
        model: where the weights that learn are chosen already.
        train_only: what of the parts with adapters learns by itself all the same, such as the chunker.

    Raises:
        ValueError: peft is missing, a name is no part, or of one no weight takes an adapter.
    """

    def __init__(self, model: VisionLanguageModel, settings: LoraSettings, train_only: Sequence[str]) -> None:
        peft = import_peft()
        linear, stacked = adaptable(model)
        targets: set[str] = set()
        for name in settings.targets:
            weights = weights_of(model, name, "model.lora.targets")
            if weights.isdisjoint({*linear, *stacked}):
                raise ValueError(
                    f"model.lora.targets names {name!r}, in which no weight takes an adapter: linear layers and experts do, "
                    f"but not routers, nor {' and '.join(READ_DIRECTLY)}; leave it out, and train it as a whole by model.train_only"
                )
            targets |= weights
        linear, stacked = [path for path in linear if path in targets], [path for path in stacked if path in targets]
        if stacked and settings.dropout:
            raise ValueError(
                f"model.lora.dropout is {settings.dropout}, and experts' adapters take none; set it to 0, or name parts "
                "without experts, such as 'backbone.*.self_attn'"
            )
        kept = {path for name in train_only for path in weights_of(model, name, "model.train_only")}
        frozen = {*linear, *stacked, *(targets - kept)}
        learns = {path for path, weight in model.named_parameters() if weight.requires_grad} - frozen
        config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=[path.removesuffix(".weight") for path in linear],
            target_parameters=stacked or None,
        )
        peft.inject_adapter_in_model(config, model, adapter_name=NAME)
        self.model = model
        self._peft, self._config = peft, config
        self._layers = _adapted_weights(model)
        assert self._layers.keys() == {*linear, *stacked}
        for path, weight in model.named_parameters():  # peft freezes everything else
            weight.requires_grad_(".lora_" in path or plain_path(path) in learns)
        self._unproven = True

    def require_gradients(self) -> None:
        """Once, after the first backward pass: refuse a layer whose weights are read without calling it.

        Raises:
            ValueError: names the layer.
        """
        if not self._unproven:
            return
        self._unproven = False
        idle = [path for path, layer in self._layers.items() if layer.lora_B[NAME].weight.grad is None]
        if idle:
            raise ValueError(
                f"model.lora: {len(idle)} adapters (such as that of {idle[0]}) take no part in the loss: their layers' weights "
                "are read directly; choose model.lora.targets without them"
            )

    def merged_weights(self) -> dict[str, Callable[[], Tensor]]:
        """Every weight and buffer as a model without adapters has it, by name; a merged one is computed when it is asked for."""
        found: dict[str, Callable[[], Tensor]] = {}
        for path, value in self.model.state_dict().items():
            if ".lora_" not in path:
                found[plain_path(path)] = self._reader(plain_path(path), value)
        return found

    def _reader(self, path: str, value: Tensor) -> Callable[[], Tensor]:
        if path not in self._layers:
            return lambda: value

        @torch.no_grad()
        def merge() -> Tensor:
            merged: Tensor = value + self._layers[path].get_delta_weight(NAME).to(value)
            return merged

        return merge

    def save_merged(self, folder: Path) -> None:
        """Write a model folder like any other, tensor by tensor; the model itself stays as it is."""
        weights, own = self.merged_weights(), self.model.state_dict()
        sizes = {
            plain_path(path): Size(tuple(value.shape), value.dtype)
            for path, value in own.items()
            if ".lora_" not in path
        }
        write_model_folder(
            folder, self.model.portable_config, self.model.tokenizer, sizes, lambda path: [weights[path]()]
        )

    def save(self, folder: Path, base: str | None) -> None:
        """Write the adapters alone, as `peft.PeftModel.from_pretrained` reads them.

        Args:
            base: the model folder that they belong to, as far as it is known.
        """
        config = replace(self._config, base_model_name_or_path=base, inference_mode=True)
        weights = self._peft.get_peft_model_state_dict(self.model, adapter_name=NAME, save_embedding_layers=False)
        with replace_folder(folder) as new:
            config.save_pretrained(new)
            named = {f"base_model.model.{path}": value.contiguous() for path, value in weights.items()}
            save_file(named, new / "adapter_model.safetensors", metadata={"format": "pt"})


def import_peft() -> ModuleType:
    """The package that makes adapters.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            'model.lora needs the package peft; pip install "conceptvlm[lora]", or leave model.lora out'
        ) from error
    module: ModuleType = peft
    return module


def adaptable(model: nn.Module) -> tuple[list[str], list[str]]:
    """Paths of the weights that take an adapter: of linear layers, and stacked ones of experts."""
    linear, stacked = [], []
    for path, module in model.named_modules():
        # No subclass of Linear: routers and torch's own attention read the weight and never call the layer.
        if type(module) is nn.Linear and not f"{path}.".startswith(tuple(f"{part}." for part in READ_DIRECTLY)):
            linear.append(f"{path}.weight")
        if isinstance(module, Experts):
            stacked += [f"{path}.{name}" for name in STACKED]
    return linear, stacked


def plain_path(path: str) -> str:
    """A weight's path in the model without adapters."""
    return path.replace(".base_layer", "")


def _adapted_weights(model: nn.Module) -> Mapping[str, Any]:
    """peft's layer of each weight that has an adapter, by the weight's plain path."""
    from peft.tuners.lora import LoraLayer

    found = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            found[f"{plain_path(path)}.{getattr(module, 'parameter_name', 'weight')}"] = module
    return found
