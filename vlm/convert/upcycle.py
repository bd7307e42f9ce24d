"""A dense model folder into a mixture of experts by sparse upcycling: every feed-forward layer becomes copies of itself.

config.yaml -> the same sizes, with experts
gate, up, down of a layer -> experts.gate_up_proj, experts.down_proj   copies, one behind the other
nothing                   -> mlp.gate.weight                           a router, drawn at random
every other tensor        -> itself                                    encoder and connector too

Source: Sparse Upcycling (arXiv 2212.05055). The weights of a token's chosen experts sum to 1 and all experts are equal, so
the model computes at first what its source computes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.order import chance
from data.tokenizer import Tokenizer
from vlm.backbone import BackboneConfig, ExpertsConfig
from vlm.backbone.cost import costs
from vlm.convert.names import Recipe, backbone_sizes, layer_numbers
from vlm.convert.report import aligned, dtype_name, star
from vlm.model import ModelConfig, VisionLanguageModel
from vlm.model_folder import (
    check_sums,
    check_tokenizer,
    check_weights,
    read_model_config,
    require_new_folder,
    write_model_folder,
)
from vlm.weight_files import SHARD_BYTES, Size, Stored, open_weights, read_sizes, read_weight, weight_files

# A tensor of a sparse layer -> the dense layer's, in the order in which each expert holds them.
DENSE = {"mlp.experts.gate_up_proj": ("gate_proj", "up_proj"), "mlp.experts.down_proj": ("down_proj",)}


@dataclass(frozen=True)
class Upcycling:
    """What was made of what; every tensor of the result is named."""

    before: BackboneConfig
    after: BackboneConfig
    made: dict[str, Recipe]  # tensor -> its size, and the source's tensors that it is made of; of a router none
    num_parameters: tuple[int, int]  # of the whole model, before and after
    noise: float
    seed: int


def upcycle(
    source: Path,
    out: Path,
    num_experts: int,
    top_k: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Upcycling:
    """Make a mixture of experts of a dense model. Weights keep their dtypes; a router has that of its layer.

    Equal experts learn apart because the routers' random draw sends different tokens to different copies, so that each
    gets gradients of its own. A router itself has none from the answers as long as its copies are equal.

    Args:
        source: a model folder with a plain dense backbone; an encoder and a connector pass through.
        out: the model folder to write; must not exist, or be empty.
        noise: fresh normal noise on all copies but the first, as a share of each weight matrix's own standard deviation.
            With it the result no longer equals its source.
        seed: of the routers' draw, which depends on it and on the layer alone, and of the noise.

    Raises:
        ValueError: the source is chunked, has experts already, or changed; or the numbers cannot be.
    """
    require_new_folder(out)
    if not isfinite(noise) or noise < 0:
        raise ValueError(f"noise is a share of each weight's standard deviation and must be 0 or above, got {noise}")
    config = read_model_config(source)
    backbone = sparse(config.backbone, num_experts, top_k, source)
    tokenizer, stored = Tokenizer(config.tokenizer), read_sizes(weight_files(source))
    check_source(source, config, tokenizer, stored)
    made = recipes(backbone, stored)
    sizes = {name: recipe.size for name, recipe in made.items()}
    write_model_folder(
        out,
        replace(config, backbone=backbone),
        tokenizer,
        sizes,
        lambda name: pieces(name, made[name], stored, backbone, noise, seed),
        shard_bytes,
    )
    parameters = (count(stored), count(sizes))
    return Upcycling(config.backbone, backbone, made, parameters, noise, seed)


def sparse(config: BackboneConfig, num_experts: int, top_k: int, source: Path) -> BackboneConfig:
    """The sizes of a dense backbone with experts in every layer.

    Raises:
        ValueError: it is chunked or has experts already, or there cannot be so many.
    """
    if config.chunk is not None:
        raise ValueError(
            f"{source} is a ConceptMoE of {config.chunk.compression:g} tokens per concept; only a plain dense model can "
            "be upcycled: upcycle the model that it was made of"
        )
    for experts in (config.experts, config.concept.experts):
        if experts is not None and experts.num_experts > 1:
            raise ValueError(
                f"{source} is a mixture of experts already, {experts.num_experts} with {experts.top_k} chosen; only a "
                "plain dense model can be upcycled"
            )
    if num_experts < 2:
        raise ValueError(f"a mixture needs 2 experts or more, got {num_experts}")

    def copied(experts: ExpertsConfig) -> ExpertsConfig:
        return replace(experts, num_experts=num_experts, top_k=top_k, normalize_top_k=True)

    own = config.concept.experts
    concept = replace(config.concept, experts=None if own is None else copied(own))
    return replace(config, experts=copied(config.experts), concept=concept)


def check_source(source: Path, config: ModelConfig, tokenizer: Tokenizer, stored: Mapping[str, Stored]) -> None:
    """Refuse a folder whose parts do not agree, or of which a byte changed.

    Raises:
        ValueError: names what is wrong.
    """
    check_tokenizer(tokenizer, stored, source)
    # Without the encoder, which would take memory; what passes through unchanged is as good as it was.
    text_only = VisionLanguageModel(replace(config, encoder=None), is_empty=True)
    outside = () if config.encoder is None else ("encoder.", "connector.")
    check_weights(text_only, {name: one for name, one in stored.items() if not name.startswith(outside)}, source)
    check_sums(source)


def recipes(config: BackboneConfig, stored: Mapping[str, Stored]) -> dict[str, Recipe]:
    """How each tensor of the sparse model is made.

    Raises:
        ValueError: gate and up of a layer have two dtypes, where experts hold both in one tensor.
    """
    shapes = {name: one.shape for name, one in stored.items() if not name.startswith("backbone.")}
    made: dict[str, Recipe] = {}
    for name, shape in (shapes | backbone_sizes(config)).items():
        layer, _, kind = name.partition("mlp.")
        parts: tuple[str, ...] = (name,)
        if name not in stored:
            parts = tuple(f"{layer}mlp.{part}.weight" for part in DENSE.get(f"mlp.{kind}", ()))
        dtypes = [stored[part].dtype for part in parts or (f"{layer}mlp.gate_proj.weight",)]
        if len(set(dtypes)) > 1:
            raise ValueError(
                f"{parts[0]} is {dtypes[0]} and {parts[1]} {dtypes[1]}, but experts hold both in one tensor; save the "
                "model in one dtype"
            )
        made[name] = Recipe(Size(shape, dtypes[0]), parts)
    return made


def pieces(
    name: str, recipe: Recipe, stored: Mapping[str, Stored], config: BackboneConfig, noise: float, seed: int
) -> Iterator[Tensor]:
    """The pieces of one tensor, in the order of its rows; of experts one matrix after another."""
    if name in stored:
        with open_weights(stored[name].file) as file:
            yield file.get_tensor(name)
        return
    _, stack, place, _ = name.split(".", 3)
    layer = layer_numbers(config)[f"{stack}.{place}"]
    if not recipe.parts:
        yield (config.init_std * normal(recipe.size.shape, seed, layer, "router")).to(recipe.size.dtype)
        return
    dense = {part: read_weight(part, stored[part].file) for part in recipe.parts}
    for expert in range(recipe.size.shape[0]):
        for part, weight in dense.items():
            if noise and expert:
                kind = part.split(".")[-2]
                yield with_noise(weight, noise, normal(tuple(weight.shape), seed, layer, kind, expert))
            else:
                yield weight


def with_noise(weight: Float[Tensor, "a b"], share: float, draw: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    """A weight matrix with noise of that share of its own standard deviation."""
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return (precise + share * precise.std(correction=0) * draw).to(weight.dtype)


def normal(shape: tuple[int, ...], *key: int | str) -> Float[Tensor, "..."]:
    """Normal float32 numbers that depend on the key alone, and so not on the order in which tensors are written."""
    return torch.from_numpy(chance("upcycle", *key).standard_normal(shape, dtype=np.float32))


def count(sizes: Mapping[str, Size]) -> int:
    """Parameters of all tensors."""
    return sum(size.num_bytes // size.dtype.itemsize for size in sizes.values())


def as_json(done: Upcycling) -> dict[str, Any]:
    """What the model was and is, and every tensor by name."""
    figures = {
        name: {"before": before, "after": after}
        for name, (_, before, after) in zip(
            ("parameters", "backbone_parameters", "backbone_activated", "backbone_flops_per_token"),
            compared(done),
            strict=True,
        )
    }
    return {
        "layers": done.after.num_layers,
        "experts": done.after.experts.num_experts,
        "top_k": done.after.experts.top_k,
        "noise": done.noise,
        "seed": done.seed,
        **figures,
        "tensors": [
            {
                "name": name,
                "shape": list(recipe.size.shape),
                "dtype": dtype_name(recipe.size.dtype),
                "from": list(recipe.parts),
            }
            for name, recipe in done.made.items()
        ],
    }


def as_text(done: Upcycling) -> str:
    """Tables: new tensors (like ones of the layers as one line), and figures before and after."""
    lines: dict[tuple[str, ...], int] = {}
    experts = done.after.experts
    changed = {name: recipe for name, recipe in done.made.items() if recipe.parts != (name,)}
    for name, recipe in changed.items():
        made_of = " + ".join(star(part) for part in recipe.parts) or "new, drawn at random"
        copies = f"{experts.num_experts} x " if name.endswith(tuple(DENSE)) else ""
        shape = " x ".join(map(str, recipe.size.shape))
        line = (star(name), shape, dtype_name(recipe.size.dtype), f"{copies}{made_of}")
        lines[line] = lines.get(line, 0) + 1
    rows = [(line[0], str(number), *line[1:]) for line, number in lines.items()]
    figures = [(name, f"{before:,}", f"{after:,}") for name, before, after in compared(done)]
    noise = "; the output is the source's" if not done.noise else f", all but the first with noise of {done.noise:g}"
    return "\n".join(
        [
            *aligned(("tensor", "count", "shape", "dtype", "from"), rows),
            f"{len(done.made) - len(changed)} other tensors are the source's",
            "",
            *aligned(("", "before", "after"), figures),
            "",
            f"{done.after.num_layers} layers of {experts.num_experts} copies, {experts.top_k} chosen{noise}; seed {done.seed}",
        ]
    )


def compared(done: Upcycling) -> list[tuple[str, int, int]]:
    """Figures before and after, by name; products alone count as FLOPs, without attention maps."""
    before, after = costs(done.before), costs(done.after)
    return [
        ("parameters", *done.num_parameters),
        ("parameters of the backbone", before.total, after.total),
        ("of these a token passes through", before.activated, after.activated),
        ("forward FLOPs for a token in the backbone", round(before.text.flops), round(after.text.flops)),
    ]
