"""Which tensors of a Hugging Face model make each of ours. Nothing is split or turned; experts may have to be stacked."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vlm.backbone import BackboneConfig, ConceptMoE
from vlm.weight_files import Size, Stored

EMBED, HEAD = "embed.weight", "head.weight"
THEIR_EMBED, THEIR_HEAD = "model.embed_tokens.weight", "lm_head.weight"
COMPUTED = re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")  # in files of old versions


@dataclass(frozen=True)
class Recipe:
    """A tensor of ours, and the tensors of theirs that it is made of, in order; experts come as (gate, up), (gate, up)."""

    size: Size
    parts: tuple[str, ...]


def backbone_sizes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Names in our model, and shapes, of everything in the backbone."""
    with torch.device("meta"):
        backbone: nn.Module = ConceptMoE(config)
    return {f"backbone.{name}": tuple(value.shape) for name, value in backbone.state_dict().items()}


def recipes(config: BackboneConfig, is_tied: bool, theirs: Mapping[str, Stored]) -> dict[str, Recipe]:
    """How each tensor of ours is made; embedding and head as they are there, before tokens are added.

    Raises:
        ValueError: names tensors that are missing, of another shape, or without a place in our model.
    """
    places = layer_numbers(config)
    wanted = backbone_sizes(config)
    made: dict[str, Recipe] = {}
    missing: list[str] = []
    for name, shape in wanted.items():
        parts = sources(their_name(name, places), shape, theirs)
        lacking = [part for part in parts if part not in theirs]
        if lacking:
            missing += lacking
        else:
            made[name] = Recipe(Size(shape, check_shapes(parts, shape, theirs)), parts)
    for ours, name in ((EMBED, THEIR_EMBED), *(() if is_tied else ((HEAD, THEIR_HEAD),))):
        if name not in theirs:
            missing.append(name)
            continue
        shape = (theirs[name].shape[0], config.width)
        made[ours] = Recipe(Size(shape, check_shapes((name,), shape, theirs)), (name,))
    if missing:
        raise ValueError(
            f"the weights lack {_some(missing)}, which config.json asks for; fetch the model again as a whole"
        )
    used = {part for recipe in made.values() for part in recipe.parts}
    if unknown := [name for name in theirs if name not in used and not is_needless(name, is_tied)]:
        raise ValueError(
            f"the weights have {_some(unknown)}, for which config.json names no place; nothing of a model is left out"
        )
    return made


def is_needless(name: str, is_tied: bool) -> bool:
    """Whether a model is whole without the tensor: it is computed, or a second copy of the embedding."""
    return COMPUTED.fullmatch(name) is not None or (is_tied and name == THEIR_HEAD)


def layer_numbers(config: BackboneConfig) -> dict[str, int]:
    """`encoder.0`, `concept.3`, ... -> the number of that layer there."""
    counts = {"encoder": config.encoder_layers, "concept": config.concept_layers, "decoder": config.decoder_layers}
    names = [f"{stack}.{place}" for stack, count in counts.items() for place in range(count)]
    return {name: number for number, name in enumerate(names)}


def their_name(name: str, places: Mapping[str, int]) -> str:
    """What they call a tensor of our backbone."""
    _, stack, place, *rest = [*name.split("."), ""]
    layer = places.get(f"{stack}.{place}")
    if layer is None:
        return name.replace("backbone.", "model.", 1)
    return f"model.layers.{layer}.{'.'.join(rest).rstrip('.')}"


def sources(name: str, shape: Sequence[int], theirs: Mapping[str, Stored]) -> tuple[str, ...]:
    """The tensor of that name, or the experts' own ones that files on the hub have in its stead."""
    before, _, kind = name.rpartition("experts.")
    if name in theirs or kind not in ("gate_up_proj", "down_proj"):
        return (name,)
    kinds = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
    return tuple(f"{before}experts.{expert}.{one}.weight" for expert in range(shape[0]) for one in kinds)


def check_shapes(parts: Sequence[str], shape: Sequence[int], theirs: Mapping[str, Stored]) -> torch.dtype:
    """The dtype of parts that together have that shape.

    Raises:
        ValueError: one has another shape or dtype.
    """
    per_expert = len(parts) // shape[0] if len(parts) > 1 else 1
    due = tuple(shape) if len(parts) == 1 else (shape[1] // per_expert, shape[2])
    dtype = theirs[parts[0]].dtype
    for part in parts:
        if theirs[part].shape != due:
            raise ValueError(
                f"{part} is {theirs[part].shape} in the weights and {due} by config.json; they are of two models"
            )
        if theirs[part].dtype != dtype:
            raise ValueError(
                f"{part} is {theirs[part].dtype} and {parts[0]} {dtype}; experts of a layer need one dtype"
            )
    if not dtype.is_floating_point:
        raise ValueError(f"{parts[0]} is {dtype}; take a copy of the model that is not quantised")
    return dtype


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
