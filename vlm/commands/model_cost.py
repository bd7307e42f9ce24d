"""What the whole model costs: the backbone's figures, with vision tower, connector, embedding and head around them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data.tokenizer import Tokenizer
from encoders.protocol import Features
from vlm.backbone.cost import concept_parts, costs, flop_counter, head_flops, token_parts
from vlm.connector import Connector
from vlm.model import ModelConfig, build_encoder, image_layout


@dataclass(frozen=True)
class Vision:
    """What stands before the backbone, for one vector of a picture as the backbone sees it."""

    tower: int  # parameters
    connector: int  # parameters
    tower_flops: float  # forward
    connector_flops: float  # forward

    @property
    def flops(self) -> float:
        return self.tower_flops + self.connector_flops


def measure_vision(model: ModelConfig) -> Vision | None:
    """Run one blank picture through tower and connector under torch's counter; None for a text-only model.

    Where pictures have many sizes, it is a square of the encoder's `size_px`.

    A library's tower is run on the meta device, where nothing is computed and no weights are needed.
    """
    encoder = build_encoder(model.encoder)
    layout = image_layout(encoder, model.connector)
    if layout is None:
        return None
    crop = layout.reference.crops[0]  # the picture that stands for all: no larger than a square of the spec's size_px
    parameter = next(encoder.parameters(), torch.empty(0))
    encoder.eval()
    with torch.no_grad(), flop_counter() as tower:
        if parameter.is_meta and hasattr(encoder, "map_shape"):
            encoder.map_shape(encoder.model, crop.height, crop.width)
        else:
            encoder.encode([torch.zeros(3, crop.height, crop.width).to(parameter)])
    grid = layout.encoder_grid(crop.height, crop.width)
    with torch.device("meta"):
        connector = Connector(model.connector, encoder.width, model.backbone.width)
        vectors = torch.empty(grid[0] * grid[1], encoder.width)
    with torch.no_grad(), flop_counter() as projections:
        connector(Features(vectors, torch.tensor([grid])))
    return Vision(
        tower=sum(p.numel() for p in encoder.parameters()),
        connector=sum(p.numel() for p in connector.parameters()),
        tower_flops=tower.get_total_flops() / layout.slots,
        connector_flops=projections.get_total_flops() / layout.slots,
    )


def parameter_parts(model: ModelConfig, vision: Vision | None) -> dict[str, dict[str, int]]:
    """Parameters, total and activated, of each part, and of the whole model at the end."""
    counts: dict[str, tuple[int, int]] = {}
    if vision is not None:
        counts |= {"encoder": (vision.tower, vision.tower), "connector": (vision.connector, vision.connector)}
    embed = Tokenizer(model.tokenizer).vocab_size * model.backbone.width
    if model.tie_embeddings:
        counts["embed, which is the head too"] = embed, embed
    else:
        counts |= {"embed": (embed, 0), "head": (embed, embed)}  # a token looks its row up, and passes through the head
    parts = token_parts(model.backbone) | concept_parts(model.backbone)
    counts |= {f"backbone: {name}": (part.total, part.activated) for name, part in parts.items() if part.total}
    counts["all"] = sum(total for total, _ in counts.values()), sum(activated for _, activated in counts.values())
    return {name: {"total": total, "activated": activated} for name, (total, activated) in counts.items()}


def token_flops(model: ModelConfig, vision: Vision | None, training: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """FLOPs, forward and in training, of a text token, an image token, and a token with logits.

    A part that learns costs three times its forward, a frozen one behind parts that learn twice, any other frozen one
    once, and a tower with a feature cache nothing. A part frozen in part counts as one that learns.

    Args:
        training: the config's `model` group: `freeze` and `feature_cache`.
    """
    learns = {"embed", "backbone"} | (set() if vision is None else {"encoder", "connector"})
    own_head = "embed" if model.tie_embeddings else "head"
    learns.add(own_head)
    learns -= set(training.get("freeze") or ())

    def times(part: str, *before: str) -> int:
        return 3 if part in learns else 2 if learns.intersection(before) else 1

    cost = costs(model.backbone)
    in_backbone = times("backbone", "encoder", "connector", "embed")
    lines: dict[str, list[tuple[float, int]]] = {"text token": [(cost.text.flops, in_backbone)]}
    if vision is not None:
        tower = vision.tower_flops, times("encoder") if training.get("feature_cache") is None else 0
        connector = vision.connector_flops, times("connector", "encoder")
        lines["image token"] = [(cost.image.flops, in_backbone), tower, connector]
        lines |= {"image token, of it the encoder": [tower], "image token, of it the connector": [connector]}
    head = head_flops(model.backbone.width, Tokenizer(model.tokenizer).vocab_size)
    lines["head, for a token with logits"] = [(head, times(own_head, "encoder", "connector", "embed", "backbone"))]
    return {
        name: {
            "forward": float(sum(flops for flops, _ in part)),
            "training": float(sum(flops * factor for flops, factor in part)),
        }
        for name, part in lines.items()
    }


def generation_memory(
    models: Sequence[Mapping[str, Any]], outside: int, sequences: int, tokens: int, bytes_per_value: int
) -> list[dict[str, Any]]:
    """Bytes while so many answers are in the making: weights, and keys and values of every token.

    Args:
        models: what `plan.describe` says of each backbone.
        outside: parameters around the backbone.
        tokens: of a sequence, prompt and answer together.
    """
    found = []
    for model in models:
        weights = (model["parameters"] + outside) * bytes_per_value
        kept = sequences * tokens * model["kv_bytes_text"]
        found.append({"name": model["name"], "weights": weights, "keys_and_values": kept, "in_all": weights + kept})
    return found
