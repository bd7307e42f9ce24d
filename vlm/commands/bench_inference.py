"""`vlm bench prefill`, `decode` and `plot`: arguments, tables, and the drawing of both."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.bench.boundaries import Pattern
    from vlm.bench.lineup import Lineup

WHAT = {
    "prefill": "prompts until their first token: the plain MoE, the ConceptMoEs matched to it, and transformers' Qwen3MoE",
    "decode": "one token more, by tokens held and batch: the same models, transformers' with both of its caches",
    "plot": "draw saved measurements of prefill and decode side by side, and print their tables",
}


def add_arguments(name: str, kind: argparse.ArgumentParser) -> None:
    """What `prefill`, `decode` or `plot` takes beside what all kinds take."""
    if name == "plot":
        kind.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what --json printed")
        kind.add_argument("--out", required=True, type=Path, metavar="FILE", help="an .svg, .png or .pdf to write")
        return
    lengths, batches = ("1024,4096,8192", "1") if name == "prefill" else ("1024,4096,16384", "1,8,64")
    held = "of a prompt" if name == "prefill" else "that a sequence holds"
    kind.add_argument("--lengths", default=lengths, metavar="N,N", help=f"tokens {held} (default: {lengths})")
    kind.add_argument("--batch", default=batches, metavar="N,N", help=f"sequences (default: {batches})")
    if name == "decode":
        kind.add_argument("--steps", type=int, default=16, help="steps of a round (default: 16)")
    kind.add_argument("--compression", type=float, default=2.0, help="tokens per concept (default: 2)")
    kind.add_argument(
        "--pattern", type=Path, metavar="FOLDER", help="end concepts where this trained model does in the demo's texts"
    )
    kind.add_argument("--kv-heads", type=int, default=6, help="key heads beside 6 query heads (default: 6)")
    kind.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of weights and caches")
    kind.add_argument(
        "--models", default="", metavar="NAME,NAME", help="beside the plain MoE those that begin so, as 1L,transformers"
    )
    kind.add_argument("--plot", type=Path, metavar="FILE", help="draw it too: an .svg, .png or .pdf to write")


def check(args: argparse.Namespace) -> None:
    """Refuse, before anything is built, what the other kinds do not take.

    Raises:
        ValueError: says which setting.
    """
    from vlm.bench.boundaries import MOST_COMPRESSION
    from vlm.bench.plot import check_target

    if not 1 < args.compression <= MOST_COMPRESSION:
        raise ValueError(
            f"--compression is tokens per concept and must be above 1 and at most {MOST_COMPRESSION}, "
            f"got {args.compression:g}"
        )
    if args.plot is not None:
        check_target(args.plot)


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers, such as 1024,4096.

    Raises:
        ValueError: something else came.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{option} takes whole numbers above 0 with commas between them, got {text!r}")
    return sorted({int(part) for part in parts})


def measure(args: argparse.Namespace, device: Any) -> tuple[dict[str, Any], list[str]]:
    """Everything that was asked for: what JSON holds, and the lines of the table."""
    import torch

    from vlm.bench.boundaries import Pattern
    from vlm.bench.decode import prompt_tokens
    from vlm.bench.lineup import line_up, with_kv_heads
    from vlm.bench.plot import draw

    check(args)
    lengths, batches = numbers("--lengths", args.lengths), numbers("--batch", args.batch)
    if args.what == "decode":
        prompt_tokens(min(lengths), args.steps, args.rounds)
    plain = with_kv_heads(args.kv_heads)
    pattern = Pattern.regular(args.compression) if args.pattern is None else Pattern.of_model(args.pattern)
    lineup = line_up(
        compression=args.compression,
        plain=plain,
        names=[name for name in args.models.split(",") if name],
        device=device,
        dtype=torch.bfloat16 if args.dtype == "bf16" else torch.float32,
    )
    kind = _prefill if args.what == "prefill" else _decode
    rows = [asdict(one) for one in kind(args, lineup, pattern, lengths, batches)]
    about = f"{pattern.name}, {pattern.compression:.3f} tokens per concept"
    settings = {"kv_heads": args.kv_heads, "dtype": args.dtype, "rounds": args.rounds, "boundaries": about}
    if args.plot is not None and rows:
        draw({args.what: rows}, args.plot)
    shown = [", ".join(f"{name} {value}" for name, value in settings.items())]
    table = [*shown, *table_of(args.what, rows), *lineup.notes]
    return {"bench": args.what, **settings, "notes": lineup.notes, "results": rows}, table


def plot(args: argparse.Namespace) -> list[str]:
    """Draw saved measurements; returns their tables."""
    from vlm.bench.plot import check_target, draw, read_measurements

    check_target(args.out)
    measured = read_measurements(args.files)
    draw(measured, args.out)
    return [line for kind, rows in measured.items() for line in (kind, *table_of(kind, rows), "")] + [str(args.out)]


def _prefill(
    args: argparse.Namespace, lineup: "Lineup", pattern: "Pattern", lengths: list[int], batches: list[int]
) -> list[Any]:
    from vlm.bench.prefill import measure_prefill
    from vlm.training.progress import progress

    found: list[Any] = []
    for length in lengths:
        for batch in batches:
            with progress(f"prefill of {batch} x {length:,}", 0) as show:
                found += measure_prefill(lineup, pattern, batch=batch, length=length, rounds=args.rounds, progress=show)
    return found


def _decode(
    args: argparse.Namespace, lineup: "Lineup", pattern: "Pattern", lengths: list[int], batches: list[int]
) -> list[Any]:
    from vlm.bench.decode import measure_decode
    from vlm.training.progress import progress

    found: list[Any] = []
    for length in lengths:
        with progress(f"decode at {length:,}", 0) as show:
            found += measure_decode(
                lineup,
                pattern,
                length=length,
                batches=batches,
                steps=args.steps,
                rounds=args.rounds,
                progress=show,
            )
    return found


def table_of(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table; `of it` is the measured speed in that which the cost model predicts."""
    from vlm.commands.bench import aligned

    is_decode = kind == "decode"
    head = [
        *("model", "batch", "length", "step" if is_decode else "time", "± spread", *(["p95"] if is_decode else [])),
        *("tokens/s", "speed", "predicted", "of it", "R", *(["KV bytes/token", "predicted"] if is_decode else [])),
    ]
    cells = []
    for row in rows:
        line = [
            row["model"],
            str(row["batch"]),
            f"{row['length']:,}",
            _ms(row["seconds"]),
            f"{50 * row['spread']:.0f} %",
        ]
        if is_decode:
            line.append(_ms(row["p95_s"]))
        line += [f"{row['tokens_per_s']:,.0f}", f"{row['speed']:.2f}x", f"{row['predicted']:.2f}x"]
        line.append(f"{100 * row['speed'] / row['predicted']:.0f} %")
        line.append("-" if row["compression"] is None else f"{row['compression']:.2f}")
        if is_decode:
            line += [f"{row['kv_bytes']:,.0f}", f"{row['kv_bytes_predicted']:,.0f}"]
        cells.append(line)
    return aligned(head, cells)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"
