"""`vlm bench`: speed, memory and compression, measured here and now beside the peers."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vlm.commands import bench_conversion as conversion
from vlm.commands import bench_data as data
from vlm.commands import bench_inference as inference

WHAT = {
    "train": "a training step: the plain MoE, the ConceptMoEs matched to it, and transformers' Qwen3MoE of its shape",
    "parts": "experts, attention, smoothing, loss and the chunker, each against its peers",
    "compression": "a toy language chunked with each target, by the controller and by constant weights",
    "data": "the data engine: pictures/s, reading and packing, beside webdataset and what else is installed",
    "conversion": "a plain MoE trained on the demo's text, then continued as it is and as ConceptMoEs (an hour a seed)",
}
OF_THEIR_OWN: dict[str, Any] = {
    "data": data,
    "conversion": conversion,
}  # modules with arguments and tables of their own
COUNTS = ("seeds", "rounds", "threads", "documents", "length", "steps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT", title="what to measure")
    for name, text in (WHAT | inference.WHAT).items():
        kind = kinds.add_parser(name, help=text, description=text)
        if name in inference.WHAT:
            inference.add_arguments(name, kind)
        if name == "plot":
            continue
        kind.add_argument("--json", action="store_true", help="print JSON instead of a table")
        if name in OF_THEIR_OWN:
            OF_THEIR_OWN[name].add_arguments(kind)
            continue
        if name == "compression":
            kind.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings of each kind (default: 1)")
            continue
        kind.add_argument("--rounds", type=int, default=7, help="interleaved rounds; medians are shown (default: 7)")
        kind.add_argument("--threads", type=int, default=1, help="of torch on a CPU (default: 1)")
        kind.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
        if name == "train":
            kind.add_argument("--documents", type=int, default=2, help="documents of a row (default: 2)")
            kind.add_argument("--length", type=int, default=1024, help="tokens of a document (default: 1024)")
            kind.add_argument("--compression", type=float, default=2.0, help="tokens per concept (default: 2)")
            kind.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="bf16: under autocast")
            kind.add_argument("--compile", action="store_true", help="run blocks through torch.compile")
            kind.add_argument("--no-peer", action="store_true", help="leave transformers out")
            kind.add_argument(
                "--no-memory", action="store_true", help="leave out peak memory, which runs each model again"
            )


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table or JSON."""
    if args.what == "plot":
        print(*inference.plot(args), sep="\n")
        return 0
    if args.what in OF_THEIR_OWN:
        return int(OF_THEIR_OWN[args.what].run(args))
    import platform

    import torch

    from vlm.inference.load import usable_device

    check_counts(args)
    device = usable_device("cpu" if args.what == "compression" else args.device)
    torch.set_num_threads(getattr(args, "threads", 1))
    if args.what in inference.WHAT:
        found, table = inference.measure(args, device)
    else:
        results, table = {"train": train, "parts": parts, "compression": compression}[args.what](args, device)
        found = {"results": [asdict(result) for result in results]}
    machine = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    )
    about = {"torch": torch.__version__, "python": platform.python_version(), "device": machine}
    if args.json:
        print(json.dumps({**about, **found}, indent=1))
    else:
        print(", ".join(f"{name} {value}" for name, value in about.items()), *table, sep="\n")
    return 0


def check_counts(args: argparse.Namespace) -> None:
    """Refuse numbers with which nothing could be measured.

    Raises:
        ValueError: names the option.
    """
    for name in COUNTS:
        if getattr(args, name, 1) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    # More threads than cores measure how they wait for each other; very many end torch with a segmentation fault.
    cores = os.cpu_count() or 1
    if getattr(args, "threads", 1) > cores:
        raise ValueError(f"--threads is at most {cores}, the cores of this machine, got {args.threads}")


def train(args: argparse.Namespace, device: Any) -> tuple[Sequence[Any], list[str]]:
    """Training steps."""
    import torch

    from vlm.bench.train import measure_training
    from vlm.training.progress import progress

    with progress("training steps", 0) as show:
        results = measure_training(
            num_documents=args.documents,
            length=args.length,
            compression=args.compression,
            rounds=args.rounds,
            device=device,
            dtype=torch.bfloat16 if args.dtype == "bf16" else torch.float32,
            with_peer=not args.no_peer,
            with_memory=not args.no_memory,
            compiled=args.compile,
            progress=show,
        )
    head = ("model", "parameters", "activated", "tokens/s", "± spread", "speed", "of GEMM rate", "peak MiB")
    rows = [
        (
            one.model,
            f"{one.parameters / 1e6:.1f} M",
            f"{one.activated / 1e6:.1f} M",
            f"{one.tokens_per_s:,.0f}",
            f"{100 * one.spread / 2:.0f} %",
            f"{one.speed:.2f}x",
            f"{100 * one.gemm_share:.0f} %",
            "-" if one.peak_mib is None else f"{one.peak_mib:,.0f}",
        )
        for one in results
    ]
    return results, aligned(head, rows)


def parts(args: argparse.Namespace, device: Any) -> tuple[Sequence[Any], list[str]]:
    """Parts of the backbone against their peers."""
    from vlm.bench.parts import measure_parts
    from vlm.training.progress import progress

    with progress("parts", 0) as show:
        results = measure_parts(rounds=args.rounds, device=device, progress=show)
    head = ("part", "ours", "peer", "", "peer / ours", "± spread")
    rows = [
        (
            one.name,
            f"{1e3 * one.ours_s:.1f} ms",
            f"{1e3 * one.peer_s:.1f} ms",
            one.peer,
            f"{one.ratio:.2f}",
            f"{100 * one.spread / 2:.0f} %",
        )
        for one in results
    ]
    return results, aligned(head, rows)


def compression(args: argparse.Namespace, device: Any) -> tuple[Sequence[Any], list[str]]:
    """What holds the target."""
    from vlm.bench.compression import hold
    from vlm.training.progress import progress

    kinds = [
        (target, weight, seed)
        for target in (1.5, 16 / 9, 2.0, 4.0)
        for weight in (None, 0.03, 0.3)
        for seed in range(args.seeds)
    ]
    results = []
    with progress("trainings", len(kinds)) as show:
        for target, weight, seed in kinds:
            results.append(hold(target, weight, seed=seed))
            show(len(results), len(kinds))
    head = ("target", "weight", "seed", "measured", "off", "loss", "p in 0.4-0.6", "p from 0 to 1 in 20 bins")
    rows = [
        (
            f"{one.target:.3f}",
            one.weight,
            str(one.seed),
            f"{one.compression:.3f}",
            f"{100 * (one.compression / one.target - 1):+.1f} %",
            f"{one.loss:.3f}",
            f"{100 * one.near_half:.0f} %",
            bars(one.histogram),
        )
        for one in results
    ]
    return results, aligned(head, rows)


def bars(shares: Sequence[float]) -> str:
    """A histogram as one word of block characters, the fullest bin being the highest."""
    heights = " ▁▂▃▄▅▆▇█"
    top = max(shares) or 1.0
    return "".join(heights[round(8 * share / top)] for share in shares)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column reads from the left, figures from the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

    return [line(head), "-" * len(line(head)), *(line(row) for row in rows)]
