"""What a conversion to a ConceptMoE made of what, and what it costs beside its source, as tables or as JSON."""

from dataclasses import asdict
from typing import Any

from vlm.backbone import BackboneConfig
from vlm.backbone.cost import Costs, costs
from vlm.convert.report import LAYER, aligned, dtype_name
from vlm.convert.to_conceptmoe import Conversion


def as_json(done: Conversion) -> dict[str, Any]:
    """Every tensor by name with what it was, the numbers chosen, and both models' costs."""
    concept = done.config.backbone.concept
    return {
        "top_k": None if concept.experts is None else concept.experts.top_k,
        "matched_top_k": done.matched_top_k,
        "loop": None if concept.loop is None else asdict(concept.loop),
        "compression": compression_of(done.config.backbone),
        "source": numbers(costs(done.source)),
        "conceptmoe": numbers(costs(done.config.backbone)),
        "tensors": [
            {
                "name": name,
                "shape": list(done.sizes[name].shape),
                "dtype": dtype_name(done.sizes[name].dtype),
                "from": origin,
            }
            for name, origin in done.made.items()
        ],
    }


def as_text(done: Conversion) -> str:
    """Tables of costs and of the new tensors, and the choices in words."""
    source, backbone = costs(done.source), costs(done.config.backbone)
    new = [name for name, origin in done.made.items() if origin is None]
    lines: dict[tuple[str, ...], int] = {}
    for name in new:
        size = done.sizes[name]
        line = (LAYER.sub(r"\1.*", name), " x ".join(map(str, size.shape)), dtype_name(size.dtype))
        lines[line] = lines.get(line, 0) + 1
    rows = [
        (name, f"{one.total:,}", f"{one.activated:,}", f"{one.text.flops:,.0f}", f"{one.text.kv_bytes:,.0f}")
        for name, one in (("source", source), (kind_of(done.config.backbone), backbone))
    ]
    layers = done.config.backbone
    return "\n".join(
        [
            *aligned(
                ("model", "parameters", "activated", "FLOPs of a token", "bytes of keys and values in bf16"), rows
            ),
            "",
            f"layers: {layers.encoder_layers} encoder, {layers.concept_layers} concept, {layers.decoder_layers} decoder",
            experts_in_words(done),
            f"tensors: {len(done.made) - len(new)} kept, {len(new)} new",
            "",
            *(
                aligned(
                    ("new tensor", "count", "shape", "dtype"),
                    [(line[0], str(n), *line[1:]) for line, n in lines.items()],
                )
                if new
                else []
            ),
        ]
    ).rstrip()


def experts_in_words(done: Conversion) -> str:
    """How many experts a concept is sent to, and how many would cost what the source costs."""
    experts = done.config.backbone.concept.experts
    if experts is None:
        return "experts: none to choose, the layers are dense; what chunking saves is saved"
    words = f"experts: {experts.top_k} of {experts.num_experts} for a concept, where the source has {done.source.experts.top_k}"
    if done.matched_top_k is None:
        return f"{words}; no number of them costs what the source costs"
    return words + (
        "; so concept layers cost a token what they cost there"
        if experts.top_k == done.matched_top_k
        else f"; {done.matched_top_k} would cost what the source costs"
    )


def kind_of(config: BackboneConfig) -> str:
    """As the paper names its models: `top5-loop2-R1.5`."""
    experts, loop, ratio = config.concept.experts, config.concept.loop, compression_of(config)
    parts = [] if experts is None else [f"top{experts.top_k}"]
    parts += [] if loop is None else [f"loop{loop.layers}"]
    return "-".join([*parts, "unchunked" if ratio is None else f"R{ratio:.3g}"])


def compression_of(config: BackboneConfig) -> float | None:
    return None if config.chunk is None else config.chunk.compression


def numbers(cost: Costs) -> dict[str, int | float]:
    return {
        "parameters": cost.total,
        "activated": cost.activated,
        "flops_per_token": cost.text.flops,
        "kv_bytes_per_token": cost.text.kv_bytes,
    }
