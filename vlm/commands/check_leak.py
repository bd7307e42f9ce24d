"""`vlm check leak`."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    raise SystemExit("replaced on the way")
