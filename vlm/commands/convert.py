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
        "--chat",
        choices=("own", "template"),
        default="own",
        help="how conversations are written: in the project's own format, or by the model's chat template (default: own)",
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
    upcycle = kinds.add_parser(
        "upcycle",
        help="a dense model folder into a mixture of experts",
        description="Sparse upcycling: every feed-forward layer becomes copies of itself, with a random router. The "
        "output stays the same until the copies learn apart.",
    )
    upcycle.add_argument("model", metavar="MODEL", type=Path, help="the folder of a plain dense model")
    upcycle.add_argument("out", metavar="OUT", type=Path, help="the model folder to write; must not exist")
    upcycle.add_argument("--experts", type=int, required=True, metavar="N", help="experts of each layer")
    upcycle.add_argument("--top-k", type=int, required=True, metavar="K", help="how many of them a token is sent to")
    upcycle.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="noise on all copies but the first, as a share of each weight matrix's standard deviation (default: 0)",
    )
    upcycle.add_argument("--seed", type=int, default=0, help="of the routers and of the noise (default: 0)")
    upcycle.add_argument(
        "--shard-mb",
        type=int,
        default=5000,
        metavar="MB",
        help="weights go into several files where one would be larger (default: 5000)",
    )
    upcycle.add_argument(
        "--json", action="store_true", help="print one JSON object with every tensor instead of tables"
    )
    conceptmoe = kinds.add_parser(
        "to-conceptmoe",
        help="a plain model folder into a ConceptMoE, to be trained on",
        description="Add a chunker and joint projections, and spend what chunking saves on experts or a loop.",
    )
    conceptmoe.add_argument("model", metavar="MODEL", type=Path, help="the folder of a plain model")
    conceptmoe.add_argument("out", metavar="OUT", type=Path, help="the model folder to write; must not exist")
    conceptmoe.add_argument(
        "--compression",
        type=float,
        required=True,
        metavar="R",
        help="tokens per concept, such as 1.5; 1 adds no chunker",
    )
    conceptmoe.add_argument(
        "--loop", type=int, default=0, metavar="N", help="concept layers in the middle that run twice"
    )
    conceptmoe.add_argument(
        "--top-k", type=int, metavar="K", help="experts of a concept (default: as many as cost what the source costs)"
    )
    conceptmoe.add_argument(
        "--layers",
        type=three_numbers,
        metavar="E,C,D",
        help="encoder, concept and decoder layers (default: the source's)",
    )
    conceptmoe.add_argument(
        "--residual",
        choices=("delta", "concept"),
        default="delta",
        help="what a concept adds to its tokens: what the layers changed in it, or itself as the paper has it (default: delta)",
    )
    conceptmoe.add_argument("--seed", type=int, default=0, help="of the chunker's weights (default: 0)")
    conceptmoe.add_argument("--shard-mb", type=int, default=5000, metavar="MB", help="as above (default: 5000)")
    conceptmoe.add_argument("--json", action="store_true", help="print one JSON object with every tensor")
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
    kinds = {"from-hf": import_one, "upcycle": upcycle_one, "to-conceptmoe": convert_one, "doctor": examine_one}
    return kinds[args.kind](args)


def import_one(args: argparse.Namespace) -> int:
    from vlm.convert.from_hf import import_model
    from vlm.convert.report import as_json, as_text

    done = import_model(args.source, args.out, args.layers, shard_bytes(args), args.chat)
    print(json.dumps(as_json(done), indent=2) if args.json else f"{as_text(done)}\n\nmodel saved in {args.out}")
    return 0


def upcycle_one(args: argparse.Namespace) -> int:
    from vlm.convert.upcycle import as_json, as_text, upcycle

    done = upcycle(
        args.model,
        args.out,
        args.experts,
        args.top_k,
        noise=args.noise,
        seed=args.seed,
        shard_bytes=shard_bytes(args),
    )
    print(json.dumps(as_json(done), indent=2) if args.json else f"{as_text(done)}\n\nmodel saved in {args.out}")
    return 0


def convert_one(args: argparse.Namespace) -> int:
    from vlm.convert.conversion_report import as_json, as_text
    from vlm.convert.to_conceptmoe import convert_model

    done = convert_model(
        args.model,
        args.out,
        compression=args.compression,
        loop=args.loop,
        top_k=args.top_k,
        layers=args.layers,
        residual=args.residual,
        seed=args.seed,
        shard_bytes=shard_bytes(args),
    )
    print(json.dumps(as_json(done), indent=2) if args.json else f"{as_text(done)}\n\nmodel saved in {args.out}")
    return 0


def shard_bytes(args: argparse.Namespace) -> int:
    """How large a file of weights may be."""
    if args.shard_mb < 1:
        raise ValueError(f"--shard-mb must be at least 1, got {args.shard_mb}")
    return int(args.shard_mb) * 1_000_000


def examine_one(args: argparse.Namespace) -> int:
    from vlm.convert.doctor import as_json, as_text, examine

    found = examine(args.model)
    print(json.dumps(as_json(found), indent=2) if args.json else as_text(found))
    if found.faults:
        raise ValueError(f"{args.model} has faults: {'; '.join(found.faults)}")
    return 0
