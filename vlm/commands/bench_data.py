"""`vlm bench data`: arguments and what it prints."""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm.bench.data import DataResults, Rate

FOLDER = Path("runs/bench-data")
NOTE = """\
of one core: by CPU time, of the workers too; wall: by the clock, with whatever else this machine does.
x: times the rate of another in the same round, median of the rounds. waste: of the rows' tokens, left empty."""


def add_arguments(kind: argparse.ArgumentParser) -> None:
    """What it takes beside `--json`."""
    kind.add_argument(
        "--out", type=Path, default=FOLDER, metavar="FOLDER", help=f"keeps the made pictures (default: {FOLDER})"
    )
    kind.add_argument("--pictures", type=int, default=600, metavar="N", help="of a pass (default: 600)")
    kind.add_argument(
        "--records",
        type=int,
        default=25_000,
        metavar="N",
        help="among which a run goes on (default: 25000, 1.7 GB meanwhile)",
    )
    kind.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default: 5)")


def run(args: argparse.Namespace) -> int:
    """Measure, and print tables or JSON."""
    from vlm.commands.folders import require_writable

    for name in ("pictures", "rounds", "records"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    require_writable(args.out, "--out")
    from vlm.bench.data import measure_data

    results = measure_data(args.out, args.pictures, args.rounds, args.records)
    about = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "pillow", "webdataset")},
    }
    if args.json:
        print(json.dumps({"bench": "data", **about, "rounds": args.rounds, **asdict(results)}, indent=1))
    else:
        print(", ".join(f"{name} {value}" for name, value in about.items()), *tables(results), sep="\n")
    return 0


def tables(found: "DataResults") -> list[str]:
    """Lines of the tables."""
    from vlm.commands.bench import aligned

    size = f"{found.mean_bytes / 1000:.0f} KB and {found.mean_pixels / 1e6:.2f} megapixels"
    titles = ("images/s of one core", "± spread", "tokens/s", "waste", "x Pillow", "x torchvision", "wall images/s")
    lines = [f"{found.pictures} JPEG pictures of {size}, to 224 px, tokenised and packed into rows of 4,096 tokens", ""]
    lines += aligned(("pipeline", *titles), [_whole(one) for one in found.pipelines])
    lines += ["", *(f"no row: {reason}" for reason in found.missing)] if found.missing else []
    lines += ["", "Reading alone, from the page cache", ""]
    lines += aligned(
        ("reader", "records/s of one core", "± spread", "x webdataset", "wall records/s"),
        [_read(one) for one in found.reading],
    )
    mix = f"mean {found.mean_length:.0f}, 95th percentile {found.p95_length:,.0f}"
    lines += ["", f"Packing alone, records of {mix} tokens into rows of 4,096", ""]
    packing = [(one.name, f"{one.waste:.2%}", f"{one.items_per_s:,.0f}") for one in found.packing]
    lines += aligned(("packer", "waste", "records/s"), packing)
    place = found.resuming[0]
    lines += [
        "",
        f"Going on in the middle of {place.records:,} records, by the clock; a place takes {place.state_bytes:,} bytes",
        "",
    ]
    going = [(str(one.workers), f"{one.open_s:.2f} s", f"{one.first_batch_s:.2f} s") for one in found.resuming]
    lines += aligned(("workers", "shards opened", "first batch"), going)
    return [*lines, "", NOTE]


def _whole(one: "Rate") -> Sequence[str]:
    return (
        one.name,
        f"{one.images_per_s:,.0f}",
        f"{one.spread / 2:.0%}",
        f"{one.tokens_per_s:,.0f}",
        f"{one.waste:.1%}",
        *(f"{times:.2f}" for times in one.over.values()),
        f"{one.wall_records_per_s:,.0f}",
    )


def _read(one: "Rate") -> Sequence[str]:
    return (
        one.name,
        f"{one.records_per_s:,.0f}",
        f"{one.spread / 2:.0%}",
        *(f"{times:.2f}" for times in one.over.values()),
        f"{one.wall_records_per_s:,.0f}",
    )
