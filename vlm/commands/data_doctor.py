"""`vlm data doctor`: what is in shards, and what is wrong with them, by shard and key."""

import argparse
import json
import os
from pathlib import Path

DEFAULT_ROW_TOKENS = 4096
NUM_SHOWN = 24  # records on the page
MOST_WORKERS = 16  # that are started unasked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    from vlm.data_report.layout import add_reading_arguments

    parser.epilog = (
        "A record is taken for a benchmark's question where its JSON has `content` and one of `answers`, `choices` and "
        "`box`. The exit code is 0 only when there is no fault; warnings do not count."
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a tar, a folder of tars, a dataset.json, a pattern such as 'shard-{000..007}.tar' or 'data/*.tar', or demo:train/emoji",
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--row-tokens",
        type=int,
        metavar="N",
        help=f"tokens of one packed row (default: the config's, else {DEFAULT_ROW_TOKENS})",
    )
    parser.add_argument("--questions", action="store_true", help="every record is a benchmark's question")
    parser.add_argument("--decode", action="store_true", help="decode every picture, not only those of 1,000 records")
    parser.add_argument("--limit", type=int, metavar="N", help="read the first N records only")
    parser.add_argument(
        "--workers", type=int, metavar="N", help=f"processes (default: one for each core, {MOST_WORKERS} at most)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pictures that are decoded and shown (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object with everything instead of a page")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page with sample pictures that needs nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """Examine and print.

    Raises:
        ValueError: a path that is not there, or faults: the exit code is then 2.
    """
    from vlm.commands.folders import require_writable
    from vlm.commands.imports import collector_paused

    if args.html is not None:
        require_writable(args.html.parent, "--html")
    with collector_paused():
        from data.doctor.examine import Options, examine
        from vlm.data_report.layout import read_reading
        from vlm.data_report.text import as_text
        from vlm.training.progress import progress

        reading = read_reading(args)
    options = Options(
        tokenizer=reading.tokenizer,
        layout=reading.layout,
        as_questions=args.questions,
        row_tokens=next(n for n in (args.row_tokens, reading.row_tokens, DEFAULT_ROW_TOKENS) if n is not None),
        num_workers=default_workers() if args.workers is None else args.workers,
        limit=args.limit,
        decodes_all=args.decode,
        num_shown=0 if args.html is None else NUM_SHOWN,
        seed=args.seed,
    )
    found = examine([place_of(path) for path in args.paths], options, progress)
    if args.html is not None:
        from eval.predictions import write_atomically
        from vlm.data_report.page import draw_page

        write_atomically(args.html, draw_page(found, args.paths, reading.tokenizer_name, reading.encoder_name))
    if args.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print(as_text(found))
    if args.html is not None and not args.json:
        print(f"page: {args.html}")
    if total := found.faults.total:
        what = ", ".join(f"{count:,} x {reason}" for reason, count in found.faults.counts.most_common(5))
        raise ValueError(f"{total:,} {'fault' if total == 1 else 'faults'} in {', '.join(args.paths)}: {what}")
    return 0


def default_workers() -> int:
    """A process for each core that this one may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def place_of(path: str) -> str:
    """Where a path leads: `demo:` is the folder of the demo's data, made on first use."""
    if not path.startswith("demo:"):
        return path
    from data.assets.expand import demo_folder

    return str(demo_folder() / path.removeprefix("demo:"))
