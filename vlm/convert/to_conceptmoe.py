"""A plain model folder into a ConceptMoE, to be trained on: the paper's continual training (arXiv 2601.21420, sec. 4.3).

Every weight of the source is kept. New are the chunker (random) and the decoder layers' joint projections (zero). What
chunking saves is spent on more experts for a concept, or on concept layers that run twice.
With `residual: delta` and every token a concept of its own the model computes what its source did, up to the experts and
loops added; the training module's `open_steps` begins there and lets the chunker take over.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vlm.backbone import BackboneConfig, ChunkConfig
from vlm.backbone.config import ConceptConfig, LoopConfig
from vlm.backbone.initialise import initialise_one
from vlm.backbone.matching import matched_top_k
from vlm.convert.names import backbone_sizes, layer_numbers
from vlm.model import ModelConfig
from vlm.model_folder import check_sums, read_model_config, require_new_folder, write_model_folder
from vlm.weight_files import SHARD_BYTES, Size, Stored, read_sizes, read_weight, weight_files

BACKBONE = "backbone."


@dataclass(frozen=True)
class Conversion:
    """What a conversion made of what; every tensor of the result is named."""

    source: BackboneConfig
    config: ModelConfig
    made: dict[str, str | None]  # tensor -> the source's tensor that it is; None: new
    sizes: dict[str, Size]
    matched_top_k: (
        int | None
    )  # experts for a concept that cost as much as the source; None: none do, or layers are dense


def convert_model(
    folder: Path,
    out: Path,
    *,
    compression: float,
    loop: int = 0,
    top_k: int | None = None,
    layers: tuple[int, int, int] | None = None,
    residual: Literal["delta", "concept"] = "delta",
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Conversion:
    """Write the ConceptMoE of a plain model. Weights keep their dtypes.

    Args:
        folder: model folder of the plain model.
        out: the model folder to write; must not exist, or be empty.
        compression: target of tokens per concept; 1 adds no chunker, which is the control that tells what a loop adds.
        loop: concept layers in the middle that run twice.
        top_k: experts of a concept; as many as cost what the source costs where None.
        layers: encoder, concept and decoder layers; as the source names them where None.
        residual: what a concept adds to its tokens, see `ChunkConfig`; `concept` is the paper's Eq. 10.
        seed: of the chunker's weights.

    Raises:
        ValueError: the source is no plain model or changed since it was written, or no such ConceptMoE can be made of it.
    """
    require_new_folder(out)
    source = read_model_config(folder)
    backbone, matched = conceptmoe_config(source.backbone, compression, loop, top_k, layers, residual)
    config = replace(source, backbone=backbone)
    stored = read_sizes(weight_files(folder))
    check_sums(folder)
    made = origins(source.backbone, backbone, stored)
    new_sizes, dtype = backbone_sizes(backbone), stored["embed.weight"].dtype
    sizes = {
        name: Size(new_sizes[name], dtype) if origin is None else Size(stored[origin].shape, stored[origin].dtype)
        for name, origin in made.items()
    }

    def read(name: str) -> list[Tensor]:
        origin = made[name]
        if origin is None:
            return [new_weight(name, sizes[name], backbone, seed)]
        return [read_weight(origin, stored[origin].file)]

    from data.tokenizer import Tokenizer

    write_model_folder(out, config, Tokenizer(source.tokenizer), sizes, read, shard_bytes)
    return Conversion(source.backbone, config, made, sizes, matched)


def conceptmoe_config(
    plain: BackboneConfig,
    compression: float,
    loop: int = 0,
    top_k: int | None = None,
    layers: tuple[int, int, int] | None = None,
    residual: Literal["delta", "concept"] = "delta",
) -> tuple[BackboneConfig, int | None]:
    """The backbone's sizes, and the matched number of experts; see `convert_model`.

    Raises:
        ValueError: the backbone is not plain, a number is impossible, or nothing would change.
    """
    if plain.chunk is not None or plain.concept != ConceptConfig():
        raise ValueError(
            "the model has a chunker or concept settings already; convert the plain model that it was made of, "
            "as its experts and layers are those to match"
        )
    plain = with_layers(plain, layers)
    if not 1 <= compression < math.inf or (compression == 1 and not loop):
        raise ValueError(
            f"--compression is tokens per concept and must be finite and above 1, got {compression:g}; 1 adds no chunker and needs --loop"
        )
    if not 0 <= loop <= plain.concept_layers:
        raise ValueError(
            f"--loop is how many of the {plain.concept_layers} concept layers run twice, got {loop}; "
            "--layers E,C,D says which layers are concept layers"
        )
    if not plain.concept_layers:
        raise ValueError("the model has no concept layers; give some with --layers E,C,D")
    matched = None
    if plain.experts.num_experts > 1:
        try:
            matched = matched_top_k(plain, compression, 1 + loop / plain.concept_layers)
        except ValueError as error:
            if top_k is None:
                raise ValueError(f"{error}; or choose another number with --top-k") from error
    elif top_k is not None:
        raise ValueError(
            f"--top-k {top_k}: the model is dense and has no experts to choose; make it a MoE first with `vlm convert upcycle`"
        )
    chosen = matched if top_k is None else top_k
    return replace(
        plain,
        chunk=None
        if compression == 1
        else ChunkConfig(
            compression=compression, merge="last", residual=residual, joint="zero", ratio_share="threshold"
        ),
        concept=ConceptConfig(
            experts=None if chosen is None else replace(plain.experts, top_k=chosen),
            loop=LoopConfig(first=(plain.concept_layers - loop) // 2, layers=loop) if loop else None,
        ),
    ), matched


def with_layers(plain: BackboneConfig, layers: tuple[int, int, int] | None) -> BackboneConfig:
    """The same plain model with other names for its layers.

    Raises:
        ValueError: the numbers do not sum to the model's layers.
    """
    if layers is None:
        return plain
    if sum(layers) != plain.num_layers:
        raise ValueError(
            f"--layers {','.join(map(str, layers))} makes {sum(layers)} layers and the model has {plain.num_layers}; "
            "give encoder, concept and decoder layers that sum to it"
        )
    return replace(plain, encoder_layers=layers[0], concept_layers=layers[1], decoder_layers=layers[2])


def origins(plain: BackboneConfig, backbone: BackboneConfig, stored: Mapping[str, Stored]) -> dict[str, str | None]:
    """The source's tensor behind each tensor of the result; None behind a new one."""
    numbers = layer_numbers(backbone)
    theirs = {number: name for name, number in layer_numbers(plain).items()}
    made: dict[str, str | None] = {name: name for name in stored if not name.startswith(BACKBONE)}
    for name in backbone_sizes(backbone):
        _, stack, place, *rest = [*name.split("."), ""]
        number = numbers.get(f"{stack}.{place}")
        origin = name if number is None else ".".join([BACKBONE + theirs[number], *rest]).rstrip(".")
        made[name] = origin if origin in stored else None
    return made


def new_weight(name: str, size: Size, config: BackboneConfig, seed: int) -> Tensor:
    """A new weight of the backbone, drawn by its name and the seed alone."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest, "little"))
        parameter = nn.Parameter(torch.empty(size.shape))
        initialise_one(name.removeprefix(BACKBONE), parameter, config)
    return parameter.detach().to(size.dtype)
