"""`vlm plan`: what a config's model costs, beside the plain MoE matched to it and that MoE's matched ConceptMoEs.

Nothing is trained, downloaded or written: the backbone is counted from its config, the vision tower with a blank picture.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.backbone import BackboneConfig
    from vlm.backbone.cost import Costs
    from vlm.model import ModelConfig

BYTES = {"bf16": 2, "fp32": 4}
VARIANTS: tuple[dict[str, Any], ...] = (
    {"strategy": 1},
    {"strategy": 2, "loop": 2.0},
    {"strategy": 2, "loop": 1.5},
    {"strategy": 3},
)
COLUMNS = ("model", "parameters", "activated", "text", "image", "KV bytes", "maps", "KV", "FLOPs off", "parameters off")
NOTES = """
text, image: forward FLOPs (millions) of one token, without attention maps, embedding and head; an image token with its
share of the vision encoder and the connector. KV bytes: keys and values ({dtype}) of one text token.
MiB: memory of generation, weights and stored keys and values in {dtype}; what a prefill works with comes on top.
maps, KV: how many times less than in the plain MoE; in brackets for the concept layers alone, as in the paper's Table 1.
off: from the plain MoE, everything counted. The strategies match the concept layers alone, as in the paper; the chunker's
router, joint projections, projectors and smoothing come on top, and weigh less the larger the model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--config", action="append", required=True, metavar="FILE", help="a run's config; may be repeated for overlays"
    )
    parser.add_argument(
        "--compression",
        type=float,
        metavar="R",
        help="tokens per concept to plan for (default: the config's target; 2 for a plain config)",
    )
    parser.add_argument(
        "--measured",
        type=two_numbers,
        metavar="TEXT,IMAGE",
        help="tokens per concept that a run had in evaluation; one row more, of what that model really costs",
    )
    parser.add_argument(
        "--dtype", choices=tuple(BYTES), default="bf16", help="of weights, keys and values (default: bf16)"
    )
    parser.add_argument(
        "--sequences", type=int, default=1, metavar="N", help="answers in the making, for memory (default: 1)"
    )
    parser.add_argument(
        "--tokens", type=int, default=4096, metavar="N", help="of each, prompt and answer, for memory (default: 4096)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def two_numbers(text: str) -> tuple[float, float]:
    """`1.9,2.4`: one of text and one of image tokens."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first = second = math.nan
    if not (math.isfinite(first) and math.isfinite(second)):
        message = f"got {text!r}; give the compression of text and of image tokens, such as 1.9,2.4"
        raise argparse.ArgumentTypeError(message)
    return first, second


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    from vlm.commands.model_cost import generation_memory, measure_vision, parameter_parts, token_flops

    for name in ("sequences", "tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    model, training = read_run(args.config)
    chunk = model.backbone.chunk
    if chunk is not None and args.compression is not None:
        chunk = replace(chunk, compression=args.compression, compression_image=None)
        model = replace(model, backbone=replace(model.backbone, chunk=chunk))
    vision = measure_vision(model)
    parts, flops = parameter_parts(model, vision), token_flops(model, vision, training)
    models, notes = matched_models(
        model.backbone,
        2.0 if args.compression is None else args.compression,
        args.measured,
        0.0 if vision is None else vision.flops,
        BYTES[args.dtype],
    )
    outside = parts["all"]["total"] - sum(one["total"] for name, one in parts.items() if name.startswith("backbone: "))
    memory = generation_memory(models, outside, args.sequences, args.tokens, BYTES[args.dtype])
    if args.json:
        found = {"parameters": parts, "flops": flops, "models": models, "memory": memory, "notes": notes}
        print(json.dumps(found, indent=2))
        return 0
    counted = [(name, f"{one['total']:,}", f"{one['activated']:,}") for name, one in parts.items()]
    print(table(("parameters", "total", "activated"), counted))
    spent = [(name, millions(one["forward"]), millions(one["training"])) for name, one in flops.items()]
    print("\n" + table(("FLOPs (millions)", "forward", "in training"), spent))
    print("\n" + table(COLUMNS, [cells(one) for one in models]))
    titles = (f"MiB, {args.sequences:,} x {args.tokens:,} tokens", "weights", "keys and values", "in all")
    sizes = [
        (one["name"], *(mebibytes(float(one[part])) for part in ("weights", "keys_and_values", "in_all")))
        for one in memory
    ]
    print("\n" + table(titles, sizes))
    print("\n".join([NOTES.format(dtype=args.dtype), *notes]))
    return 0


def read_run(configs: Sequence[str]) -> "tuple[ModelConfig, dict[str, Any]]":
    """The model of a run's config, and its `model` group; neither data nor trainer is made.

    Raises:
        ValueError: a file or a setting that `vlm fit` would refuse too.
    """
    group = vars(read_settings(configs)["model"])
    return group["config"], group


def read_settings(configs: Sequence[str]) -> dict[str, Any]:
    """All groups of a run's config, by name.

    Raises:
        ValueError: a file or a setting that `vlm fit` would refuse too.
    """
    from vlm.commands import fit
    from vlm.commands.configs import found_configs, read_yaml_strictly

    class Reader(fit.VLMCommandLine):
        def before_instantiate_classes(self) -> None:
            """No run's folder is needed."""

        def instantiate_classes(self) -> None:
            """Only the config is wanted."""

    fit.silence()
    read_yaml_strictly()
    saved, sys.argv = sys.argv, [sys.argv[0], *found_configs([part for one in configs for part in ("--config", one)])]
    try:
        reader = Reader(
            fit.build_model,
            fit.build_data,
            run=False,
            parser_class=fit.Parser,
            trainer_defaults=fit.trainer_defaults(),
            save_config_callback=None,
            seed_everything_default=False,
            auto_configure_optimizers=False,
        )
    finally:
        sys.argv = saved
    return vars(reader.config)


def matched_models(
    config: "BackboneConfig",
    compression: float,
    measured: tuple[float, float] | None,
    vision_flops: float,
    bytes_per_value: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The plain MoE, the config, and the plain MoE's variants, a mapping each; and why some variants are missing."""
    from vlm.backbone import ChunkConfig
    from vlm.backbone.cost import costs
    from vlm.backbone.matching import match, match_plain

    def count(one: "BackboneConfig", ratios: tuple[float, float] | None = None) -> "Costs":
        return costs(one, measured=ratios, vision_flops=vision_flops, bytes_per_value=bytes_per_value)

    chunk = ChunkConfig(compression=compression) if config.chunk is None else config.chunk
    plain = config if config.chunk is None else match_plain(config).config
    experts = plain.experts
    kind = "matched to this config" if config.chunk is not None else "this config"
    models = [describe(f"plain, {kind}", plain, plain, count)]
    if config.chunk is not None:
        models.append(describe("this config", config, plain, count))
    if measured is not None:
        name = f"this config, measured {measured[0]:g}, {measured[1]:g}"
        models.append(describe(name, config, plain, count, measured))
    notes = [
        f"The plain MoE has {experts.num_experts} experts of {experts.hidden}, of which {experts.top_k} are chosen."
    ]
    for variant in VARIANTS:
        try:
            found = match(plain, chunk.compression, chunk=chunk, **variant)
        except ValueError as error:
            notes.append(f"No model of strategy {variant['strategy']}: {error}.")
        else:
            models.append(describe(f"{variant['strategy']}: {found.name}", found.config, plain, count))
    return models, notes


def describe(
    name: str,
    config: "BackboneConfig",
    plain: "BackboneConfig",
    count: "Callable[..., Costs]",
    measured: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """What a model costs, and how that compares with the plain MoE."""
    own, other = count(config, measured), count(plain)
    reductions: dict[str, float | None] = {
        "map_reduction": other.text.map_flops / own.text.map_flops,
        "kv_reduction": other.text.kv_bytes / own.text.kv_bytes,
    }
    if plain.concept_layers:
        inner, outer = (replace(one, encoder_layers=0, decoder_layers=0) for one in (config, plain))
        own_inner, other_inner = count(inner, measured), count(outer)
        reductions |= {
            "map_reduction_concepts": other_inner.text.map_flops / own_inner.text.map_flops,
            "kv_reduction_concepts": other_inner.text.kv_bytes / own_inner.text.kv_bytes,
        }
    return {
        "name": name,
        "parameters": own.total,
        "activated": own.activated,
        "flops_text": own.text.flops,
        "flops_image": own.image.flops,
        "kv_bytes_text": own.text.kv_bytes,
        "kv_bytes_image": own.image.kv_bytes,
        **reductions,
        "flops_deviation_percent": 100 * (own.text.flops / other.text.flops - 1),
        "parameter_deviation_percent": 100 * (own.total / other.total - 1),
    }


def cells(model: dict[str, Any]) -> tuple[str, ...]:
    """One row of the table of models."""

    def factor(name: str) -> str:
        inner = model.get(f"{name}_concepts")
        return f"{model[name]:.2f}" + ("" if inner is None else f" ({inner:.2f})")

    return (
        model["name"],
        f"{model['parameters']:,}",
        f"{model['activated']:,}",
        millions(model["flops_text"]),
        millions(model["flops_image"]),
        f"{model['kv_bytes_text']:,.0f}",
        factor("map_reduction"),
        factor("kv_reduction"),
        f"{model['flops_deviation_percent']:+.1f} %",
        f"{model['parameter_deviation_percent']:+.1f} %",
    )


def millions(flops: float) -> str:
    return f"{flops / 1e6:,.2f}"


def mebibytes(size: float) -> str:
    return f"{size / 2**20:,.1f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned plain text: names to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    first, *others = widths
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in (titles, *rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)
