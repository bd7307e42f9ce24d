"""`vlm eval export`: our questions for the harnesses that people already use."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("tasks", nargs="?", metavar="TASK[,TASK]", help="benchmarks or groups of them, such as demo")
    parser.add_argument("--shards", metavar="TAR", help="in place of TASK: any benchmark shards in the record format")
    parser.add_argument(
        "--mode", choices=("choose", "generate"), help="with --shards: rank the choices, or compare a written answer"
    )
    parser.add_argument("--skip-bad", action="store_true", help="with --shards: leave bad records out")
    parser.add_argument("--to", required=True, choices=("lmms-eval", "vlmevalkit"), help="the harness")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the tasks go")
    parser.add_argument("--prompt", metavar="VARIANT", help="another prompt of the benchmarks (`vlm eval tasks`)")
    parser.add_argument("--rule", choices=("sum", "letter"), help="rank the choices by likelihood")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N questions of each task, those of `vlm eval --limit N`"
    )
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="FOLDER",
        help="where prepared shards are (default: the environment variable CONCEPTVLM_BENCHMARKS, else ./benchmarks)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the tasks, and say how to run them."""
    from eval.export import lmms_eval, vlmevalkit
    from vlm.commands.eval import chosen_tasks
    from vlm.commands.folders import require_writable
    from vlm.training.progress import progress

    if (args.tasks is None) == (args.shards is None):
        raise ValueError("name a TASK, such as demo/presence, or --shards, not both")
    tasks = chosen_tasks(args)
    require_writable(args.out, "--out")
    if args.to == "vlmevalkit":
        tables = []
        for task in tasks:
            with progress(task.name, 0) as show:
                tables.append(vlmevalkit.export_task(task, args.out, show))
        for table in tables:
            print(f"{table.name}: {table.questions:,} questions in {table.path}")
            tell_skipped(table.skipped)
        names = " ".join(table.name for table in tables)
        print(f"\nrun: LMUData={args.out.resolve()} python -m vlmeval.run --data {names} --model NAME")
        return 0
    written = []
    for task in tasks:
        origin = lmms_eval.Origin(task.name, args.shards is not None, args.rule, args.prompt, args.limit)
        with progress(task.name, 0) as show:
            written.append(lmms_eval.export_task(task, origin, args.out, show))
    for one in written:
        print(f"{one.name}: {one.questions:,} questions, {one.pictures:,} pictures in {one.folder}")
        tell_skipped(one.skipped)
    print(f"\nrun: {lmms_eval.command(args.out.resolve(), written)}")
    return 0


def tell_skipped(skipped: tuple[str, ...]) -> None:
    """Records that were left out, the first by name."""
    if skipped:
        print(f"  {len(skipped)} records were left out, the first: {skipped[0]}", flush=True)
