"""`vlm data`: make shards of one's own data, examine them, look at a record, train a tokenizer."""

import argparse
import importlib

KINDS = {
    "write": "shards and a manifest from pictures with captions, JSONL, LLaVA, HF messages, parquet or COCO",
    "doctor": "what is in shards, and what is wrong with them",
    "show": "one record: its text, its pictures, its tokens and which of them carry loss",
    "tokenizer": "train a byte-level BPE on texts or shards",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes; each kind is a file of its own."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, text in KINDS.items():
        module = importlib.import_module(f"vlm.commands.data_{name}")
        module.add_arguments(kinds.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}."))


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return int(importlib.import_module(f"vlm.commands.data_{args.kind}").run(args))
