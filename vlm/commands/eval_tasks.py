"""`vlm eval tasks`: the benchmarks, by the ability they stand for, and whether their shards are there."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.task import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="FOLDER",
        help="where shards are (default: the environment variable CONCEPTVLM_BENCHMARKS, else ./benchmarks)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from data.shards import MANIFEST
    from eval.task import find_task
    from eval.tasks import GROUPS, TASKS
    from eval.tasks.categories import CATEGORIES
    from eval.tasks.shards import BENCHMARKS, Benchmark, benchmarks_folder

    if args.benchmarks is not None:
        os.environ[BENCHMARKS] = str(args.benchmarks)
    tasks = [find_task(name) for name in TASKS]
    folder = benchmarks_folder()
    ready = {
        task.name: not isinstance(task.questions, Benchmark) or (folder / task.questions.name / MANIFEST).is_file()
        for task in tasks
    }
    if args.json:
        rows = [
            {"task": task.name, "category": task.category, "mode": task.mode, "prompts": list(task.prompts)}
            | {"score": score_of(task), "ready": ready[task.name]}
            for task in tasks
        ]
        print(json.dumps({"tasks": rows, "groups": GROUPS}, indent=2))
        return 0
    width = max(len(name) for name in TASKS)
    for category in [*CATEGORIES, None]:
        some = [task for task in tasks if task.category == category]
        if some:
            print(f"{category}: {CATEGORIES[category]}" if category is not None else "in no category")
        for task in some:
            prompts = f"; prompts: {', '.join(task.prompts)}" if task.prompts else ""
            there = "ready" if ready[task.name] else "-"
            print(f"  {task.name:<{width}}  {there:<5}  {task.mode}, {score_of(task)}{prompts}")
    print("groups: " + "; ".join(f"{name} ({len(members)})" for name, members in GROUPS.items()))
    print(f"- : make its shards in {folder} with `vlm eval prepare TASK --from FOLDER`")
    return 0


def score_of(task: "Task") -> str:
    """What the task reports."""
    return task.headline.name if task.headline is not None else "mean over questions"
