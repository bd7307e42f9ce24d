"""A vision model of transformers, cut down to the feature maps of some of its layers.

What of a model no feature depends on (pooler, head, later layers) is found by a backward pass on the meta device and cut
off: kept, it would cost memory, and training on several GPUs would wait for its gradients.
"""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class HuggingFaceTower:
    """How to build a model from a config of transformers, and read its maps."""

    patch_px: int | None = None

    def __init__(self, config: Any, size_px: int, layers: tuple[int, ...]) -> None:
        """
        Args:
            config: a vision model's; changed so that it keeps every layer's output as it left the layer.
            size_px: side of the square picture for which a map is needed.

        Raises:
            ValueError: it is no model of pictures alone, gives no map of that size, or has no such layer.
        """
        self.config, self.size_px = config, size_px
        config.tie_last_hidden_states = False  # else the last kept layer's output would be replaced by the normed one
        model = self.whole("meta")
        arguments = inspect.signature(model.forward).parameters
        if "pixel_values" not in arguments or "input_ids" in arguments:
            raise ValueError(f"{type(model).__name__} takes more than pictures; name a vision model")
        # Where a model does not interpolate its positions unasked, its forward has this argument.
        self.asked = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in arguments else {}
        batch = torch.empty(1, 3, size_px, size_px, device="meta")
        num_layers = len(self._run(model, batch, hidden=True).hidden_states) - 1
        if not all(-num_layers <= layer < num_layers for layer in layers):
            raise ValueError(f"it has {num_layers} layers, got layer {list(layers)}")
        self.indices = [layer % num_layers for layer in layers]
        self.last = num_layers - 1
        maps = self.maps(model, batch)
        self.parts, self.tensors = _without_gradient(model, maps)
        patch = getattr(config, "patch_size", None)
        if isinstance(patch, int) and all(tuple(one.shape[2:]) == (size_px // patch,) * 2 for one in maps):
            self.patch_px = patch

    def whole(self, device: str) -> Any:
        """The model as transformers builds it, with random weights."""
        from transformers import AutoModel

        with torch.device(device):
            return AutoModel.from_config(self.config, dtype=torch.float32, trust_remote_code=False).eval()

    def build(self, device: str) -> Any:
        """The model without the parts on which no feature depends."""
        return self.cut(self.whole(device))

    def cut(self, model: Any) -> Any:
        """Take away, in place, the parts of a whole model on which no feature depends."""
        for name in reversed(self.parts):
            parent, child = _owner(model, name)
            if isinstance(parent, nn.ModuleList):
                del parent[int(child)]
            else:
                setattr(parent, child, nn.Identity())
        for name in self.tensors:  # such as the vector of masked patches: its module is needed, itself is not
            parent, child = _owner(model, name)
            tensor = getattr(parent, child).detach()
            delattr(parent, child)
            parent.register_buffer(child, tensor)
        return model

    def _run(self, model: Any, batch: Float[Tensor, "b 3 H W"], hidden: bool) -> Any:
        return model(pixel_values=batch, output_hidden_states=hidden, return_dict=True, **self.asked)

    def maps(self, model: Any, batch: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The map of each layer; the last one with the final norm, the others as they left the layer."""
        needs_hidden = any(index != self.last for index in self.indices)
        is_pyramid = hasattr(self.config, "depths")
        out = self._run(model, batch, hidden=needs_hidden or is_pyramid)
        reshaped = getattr(out, "reshaped_hidden_states", None)
        maps = []
        for index in self.indices:
            if index != self.last:
                found = out.hidden_states[index + 1] if reshaped is None else reshaped[index + 1]
            else:
                found = out.last_hidden_state
            if found.ndim == 3:
                grid = tuple(reshaped[index + 1].shape[2:]) if reshaped is not None else self._grid(batch)
                found = _as_map(found, grid)
            maps.append(found)
        return maps

    def _grid(self, batch: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        patch = getattr(self.config, "patch_size", None)
        if not isinstance(patch, int):
            raise ValueError(f"its config has patch_size {patch!r}; a model that gives a row of vectors needs an int")
        height, width = batch.shape[2:]
        # At its own size a model may leave a rest unseen, as SigLIP's does of 384 pixels with patches of 14.
        if (height % patch or width % patch) and (height, width) != (self.size_px, self.size_px):
            raise ValueError(f"both sides must be multiples of {patch}, its patch")
        return height // patch, width // patch


def _as_map(tokens: Float[Tensor, "b n w"], grid: tuple[int, int]) -> Float[Tensor, "b w rows columns"]:
    """Patch tokens as a map. What a model has before them (class, distillation, registers), however many, is dropped."""
    num_patches = grid[0] * grid[1]
    if tokens.shape[1] < num_patches:
        raise ValueError(f"it gives {tokens.shape[1]} vectors for a grid of {grid}")
    return tokens[:, tokens.shape[1] - num_patches :].transpose(1, 2).unflatten(2, grid)


def _without_gradient(model: nn.Module, maps: list[Tensor]) -> tuple[list[str], list[str]]:
    """The modules, and the tensors outside of these, that no map depends on."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(sum((one.sum() for one in maps), torch.zeros(())), parameters, allow_unused=True)
    used = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    parts: list[str] = []
    for name, module in model.named_modules():
        own = [f"{name}.{key}" for key, _ in module.named_parameters()]
        within = any(name.startswith(f"{part}.") for part in parts)
        if name and own and not within and not used.intersection(own):
            parts.append(name)
    tensors = [name for name in names if name not in used and not any(name.startswith(f"{part}.") for part in parts)]
    return parts, tensors


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, child = name.rpartition(".")
    return model.get_submodule(path), child
