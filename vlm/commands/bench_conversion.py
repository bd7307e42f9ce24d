"""`vlm bench conversion`: arguments and what it prints."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def add_arguments(kind: argparse.ArgumentParser) -> None:
    """What it takes beside `--json`."""
    kind.add_argument("--out", type=Path, default=Path("runs/conversion"), metavar="FOLDER", help="of all its runs")
    kind.add_argument("--seeds", default="0,1,2", metavar="N,N", help="which seeds (default: 0,1,2)")
    kind.add_argument(
        "--open-steps", type=int, default=100, metavar="N", help="steps in which the chunker takes over (default: 100)"
    )
    kind.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves too: an .svg, .png or .pdf to write")
    kind.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of every training, such as trainer.max_steps=20; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Make the runs that are missing, and print what all came to."""
    from vlm.bench.conversion import HEAD, measure_conversion, table
    from vlm.bench.conversion_plot import draw
    from vlm.bench.plot import check_target
    from vlm.commands.bench import aligned
    from vlm.commands.demo import expand
    from vlm.commands.folders import require_writable
    from vlm.training.progress import progress

    seeds = args.seeds.split(",")
    if not all(seed.strip().isdigit() for seed in seeds):
        raise ValueError(
            f"--seeds are whole numbers with commas between them, got {args.seeds!r}; give for instance 0,1,2"
        )
    if args.open_steps < 1:
        raise ValueError(f"--open-steps must be at least 1, got {args.open_steps}")
    if wrong := [one for one in args.set if "=" not in one]:
        raise ValueError(f"--set takes KEY=VALUE, got {wrong[0]!r}; give for instance trainer.max_steps=20")
    if args.plot is not None:
        check_target(args.plot)
    require_writable(args.out, "--out")
    expand()
    with progress("trainings", 0) as show:
        results = measure_conversion(
            args.out,
            [int(seed) for seed in dict.fromkeys(seeds)],
            args.open_steps,
            [f"--{one}" for one in args.set],
            show,
        )
    if args.plot is not None:
        draw(results, args.plot)
    if args.json:
        print(json.dumps({"bench": "conversion", "results": [asdict(one) for one in results]}, indent=1))
    else:
        print(*aligned(HEAD, table(results)), sep="\n")
    return 0
