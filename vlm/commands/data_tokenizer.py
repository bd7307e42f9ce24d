"""`vlm data tokenizer`: train a byte-level BPE on texts or shards."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.description = (
        "Train a byte-level BPE with this project's special tokens, and measure it on texts that it has not seen (one in 50, by "
        "content). No text is lost, and the same texts give the same file. Exit code 1 when a text could not be used."
    )
    parser.add_argument(
        "--from",
        required=True,
        nargs="+",
        dest="sources",
        metavar="SOURCE",
        help="shards (a folder, a .tar, a pattern), .txt or .jsonl files (text, content or messages), or a folder of these",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where tokenizer.json goes")
    parser.add_argument(
        "--vocab-size", type=int, default=8192, metavar="N", help="tokens, special ones included (default: 8192)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="read the first N texts of each source only")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Train, check, write; 1 if a text could not be used.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    from data.tokenizer import Tokenizer
    from data.tokenizer_training import Corpus, measure, train_bpe
    from vlm.commands.folders import require_writable
    from vlm.training.progress import progress

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {args.limit}")
    file = args.out / "tokenizer.json"
    if file.exists():
        raise ValueError(f"{file} is there already; remove it, or choose another folder with --out")
    is_made = not args.out.exists()
    require_writable(args.out, "--out")
    corpus = Corpus(tuple(args.sources), args.limit)
    try:
        if sys.stderr.isatty():  # the library's own bars: they show the merges too, which come after the reading
            trained = train_bpe(corpus.training_texts(lambda *_: None), args.vocab_size, show_progress=True)
        else:
            with progress("reading", 1) as show:
                trained = train_bpe(corpus.training_texts(show), args.vocab_size)
        text = trained.to_str(pretty=False)
        mine = Tokenizer.from_text(text, str(file), {})
        own, demo = measure(mine, corpus.held_out), measure(Tokenizer("demo"), corpus.held_out)
        part = file.with_name(f".{file.name}.part")
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, file)
    except BaseException:
        if is_made and not any(args.out.iterdir()):
            args.out.rmdir()
        raise
    result: dict[str, Any] = {
        "tokenizer": str(file),
        "vocab_size": mine.vocab_size,
        "texts": corpus.num_texts,
        "bytes": corpus.num_bytes,
        "held_out_texts": len(corpus.held_out),
        "measured": {name: asdict(one) for name, one in (("this", own), ("demo", demo)) if one is not None},
        "faults": dict(corpus.faults),
        "first_fault": corpus.first_fault,
    }
    print(json.dumps(result, indent=1) if args.json else as_text(result))
    return 1 if corpus.faults else 0


def as_text(result: dict[str, Any]) -> str:
    """Where it is, and how it does beside the demo's."""
    lines = [
        f"{result['tokenizer']}: {result['vocab_size']:,} tokens, of {result['texts']:,} texts, {result['bytes'] / 1e6:,.1f} MB",
    ]
    if result["measured"]:
        lines += [f"on {result['held_out_texts']:,} texts held out:", "tokenizer  tokens  bytes per token"]
        lines += [
            f"{name:<9}  {one['vocab_size']:>6,}  {one['bytes_per_token']:>15.2f}"
            for name, one in result["measured"].items()
        ]
    else:
        lines.append("no text was held out, as there are so few: nothing was measured")
    lines += [f"not used: {number:,} {reason}" for reason, number in result["faults"].items()]
    if result["first_fault"]:
        lines.append(f"the first: {result['first_fault']}")
    return "\n".join(lines)
