"""`vlm check`: prove a property of a model or a config on this machine."""

import argparse
import importlib

KINDS = {"leak": "packed records do not see each other, through the whole model, chunker included"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes; each kind is a file of its own."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, text in KINDS.items():
        module = importlib.import_module(f"vlm.commands.check_{name}")
        module.add_arguments(kinds.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}."))


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return int(importlib.import_module(f"vlm.commands.check_{args.kind}").run(args))
