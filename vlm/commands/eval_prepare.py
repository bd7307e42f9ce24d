"""`vlm eval prepare`: a benchmark's official release, as people download it, to shards."""

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("task", metavar="TASK", help="a benchmark, or a group of them that one release holds")
    parser.add_argument(
        "--from",
        dest="release",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="where the official release is unpacked",
    )
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="FOLDER",
        help="where shards go, in FOLDER/TASK (default: the environment variable CONCEPTVLM_BENCHMARKS, else ./benchmarks)",
    )


def run(args: argparse.Namespace) -> int:
    """Read the release, write the shards, say what is there now."""
    from eval.prepare.write import prepare
    from eval.task import find_tasks
    from eval.tasks.shards import BENCHMARKS, Benchmark, benchmarks_folder

    if args.benchmarks is not None:
        os.environ[BENCHMARKS] = str(args.benchmarks)
    tasks = find_tasks(args.task)
    for task in tasks:
        if not isinstance(task.questions, Benchmark):
            raise ValueError(
                f"task {task.name} needs no preparation; evaluate it: vlm eval --model FOLDER --tasks {task.name}"
            )
    for name in dict.fromkeys(task.questions.name for task in tasks if isinstance(task.questions, Benchmark)):
        told = Count(name) if sys.stderr.isatty() else None
        try:
            done = prepare(name, args.release, benchmarks_folder(), told)
        finally:
            if told is not None:
                told.end()
        print(f"{name}: {done.questions:,} questions, {done.pictures:,} pictures in {done.folder}")
        if done.expected not in (None, done.questions):
            print(
                f"{name}: the published split has {done.expected:,} questions; a score on other ones is none of this benchmark"
            )
        if done.repeated_choices:
            print(f"{name}: {done.repeated_choices} questions have a choice twice; the second has a blank at its end")
        if done.redrawn:
            print(f"{name}: {done.redrawn} pictures were neither JPEG, PNG nor WebP; they are PNG now")
    return 0


class Count:
    """One line on the terminal that counts up."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, 0

    def __call__(self, number: int) -> None:
        self.last = number
        if number % 100 == 0:
            print(f"\r{self.name}: {number:,} questions", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self.last >= 100:
            print(file=sys.stderr)
