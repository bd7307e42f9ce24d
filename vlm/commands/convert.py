"""`vlm convert`: pretrained models from elsewhere into model folders, and what a model folder is."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    from_hf = kinds.add_parser(
        "from-hf",
        help="a Hugging Face language model into a model folder",
        description="Import Qwen3-MoE, Qwen3, Qwen2, Llama or OLMoE: a plain model, without a chunker.",
    )
    from_hf.add_argument("source", metavar="FOLDER_OR_NAME", help="a folder, or a name on the hub: Qwen/Qwen3-0.6B")
    from_hf.add_argument("out", metavar="OUT", type=Path, help="the model folder to write; must not exist")
    from_hf.add_argument(
        "--layers",
        type=three_numbers,
        metavar="E,C,D",
        help="how many layers are called encoder, concept and decoder (default: 1, all but two, 1)",
    )
    from_hf.add_argument(
        "--shard-mb",
        type=int,
        default=5000,
        metavar="MB",
        help="weights go into several files where one would be larger (default: 5000)",
    )
    from_hf.add_argument(
        "--json", action="store_true", help="print one JSON object with every tensor instead of a table"
    )
    doctor = kinds.add_parser(
        "doctor",
        help="what a model folder is, and whether its parts agree",
        description="Read every byte of a model folder and name what is wrong with it; the exit code is then 2.",
    )
    doctor.add_argument("model", metavar="MODEL", type=Path, help="a model folder")
    doctor.add_argument("--json", action="store_true", help="print one JSON object with every tensor instead of tables")


def three_numbers(text: str) -> tuple[int, int, int]:
    """`1,26,1`."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}; give encoder, concept and decoder layers, such as 1,26,1")
    return int(parts[0]), int(parts[1]), int(parts[2])


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return import_one(args) if args.kind == "from-hf" else examine_one(args)


def import_one(args: argparse.Namespace) -> int:
    from vlm.convert.from_hf import import_model
    from vlm.convert.report import as_json, as_text

    if args.shard_mb < 1:
        raise ValueError(f"--shard-mb must be at least 1, got {args.shard_mb}")
    done = import_model(args.source, args.out, args.layers, args.shard_mb * 1_000_000)
    print(json.dumps(as_json(done), indent=2) if args.json else f"{as_text(done)}\n\nmodel saved in {args.out}")
    return 0


def examine_one(args: argparse.Namespace) -> int:
    from vlm.convert.doctor import as_json, as_text, examine

    found = examine(args.model)
    print(json.dumps(as_json(found), indent=2) if args.json else as_text(found))
    if found.faults:
        raise ValueError(f"{args.model} has faults: {'; '.join(found.faults)}")
    return 0
