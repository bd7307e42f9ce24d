"""`vlm data write`: shards and a manifest of data in one of the usual formats."""

import argparse
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.description = (
        "Make shards of data in one of the usual formats. The same command again goes on where it was stopped. The same source "
        "gives the same bytes. Exit code 1 when a record could not be used: faults.jsonl in the output names each."
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="a file, several, or a folder of them")
    parser.add_argument(
        "--from",
        required=True,
        dest="format",
        metavar="FORMAT",
        help="pictures (a folder, captions in NAME.txt), jsonl (this project's records), llava, hf-messages (JSONL or parquet), "
        "parquet (as the_cauldron and FineVision), coco (captions_*.json), text (JSONL, parquet or .txt)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the shards go; empty or new")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="where pictures lie (default: beside the file that names them)"
    )
    parser.add_argument(
        "--val", type=float, metavar="SHARE", help="hold out this share, by picture: FOLDER/train, FOLDER/val"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard-mb", type=float, metavar="MB", help="size of a shard at most (default: 500)")
    size.add_argument("--shard-records", type=int, metavar="N", help="records of a shard, instead of a size")
    parser.add_argument("--limit", type=int, metavar="N", help="read the first N records only")
    parser.add_argument(
        "--captions", type=Path, metavar="FILE", help="pictures: a .csv, .tsv or .jsonl with file and caption"
    )
    parser.add_argument(
        "--skip-uncaptioned", action="store_true", help="pictures, coco: leave out and count pictures without a caption"
    )
    parser.add_argument("--together", action="store_true", help="coco: one record for all captions of a picture")
    parser.add_argument(
        "--ask", metavar="QUESTION", help="pictures, coco: conversations; the user asks this, the caption is the answer"
    )
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="with --ask: questions to score by, whose right answers are the captions",
    )
    parser.add_argument(
        "--number-ids", action="store_true", help="give each record its number as id, not the source's id"
    )
    parser.add_argument("--verify", action="store_true", help="decode each picture, not only its header")
    parser.add_argument(
        "--max-faults", type=float, default=0.1, metavar="SHARE", help="stop above this share of faults (default: 0.1)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: one for each core, 16 at most)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Convert; 1 if there were faults.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    from data.convert.conversion import Conversion
    from data.convert.settings import Settings

    for folder in (args.images, args.captions):
        if folder is not None and not folder.exists():
            raise ValueError(f"{folder} is not there; check the path")
    default_mb = None if args.shard_records is not None else 500
    shard_mb = default_mb if args.shard_mb is None else args.shard_mb
    conversion = Conversion(
        format=args.format,
        settings=Settings(
            sources=tuple(args.sources),
            images=args.images,
            captions=args.captions,
            skip_uncaptioned=args.skip_uncaptioned,
            together=args.together,
            ask=args.ask,
            benchmark=args.benchmark,
        ),
        out=args.out,
        shard_bytes=None if shard_mb is None else round(shard_mb * MEGABYTE),
        shard_records=args.shard_records,
        val_share=args.val,
        limit=args.limit,
        number_ids=args.number_ids,
        verify=args.verify,
        max_faults=args.max_faults,
        workers=min(16, len(os.sched_getaffinity(0))) if args.workers is None else args.workers,
    )
    with stopped_cleanly(), bars() as show:
        summary = conversion.run(show)
    print(json.dumps(summary, indent=1) if args.json else as_text(args.out, summary))
    return 1 if summary["faults"] else 0


@contextmanager
def stopped_cleanly() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: nothing half-written stays."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yields a function that ends the bar before and begins one with a name."""
    from vlm.training.progress import progress

    with ExitStack() as shown:

        def begin(what: str) -> Callable[[int, int], None]:
            shown.close()
            return shown.enter_context(progress(what, 1))

        yield begin


def as_text(out: Path, summary: dict[str, Any]) -> str:
    """A line for what came in, one for each split, and what was wrong."""
    num_faults = sum(summary["faults"].values())
    num_left = sum(summary["left_out"].values())
    lines = [
        f"{summary['records']:,} records in: {summary['written']:,} written, {num_faults:,} faults, {num_left:,} left out"
    ]
    for name, split in summary["splits"].items():
        size = f"{split['bytes'] / MEGABYTE:,.1f} MB"
        lines.append(f"  {out / name}: {split['records']:,} records in {split['shards']:,} shards, {size}")
    lines += [f"left out: {number:,} {reason}" for reason, number in summary["left_out"].items()]
    lines += [f"fault: {number:,} {reason}" for reason, number in summary["faults"].items()]
    if summary["faults"]:
        lines.append(f"each fault by its place: {out / 'faults.jsonl'}")
    return "\n".join(lines)
