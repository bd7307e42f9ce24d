"""`vlm eval`: put benchmarks to a trained model, print the table of scores, keep every answer and scores.json.

`vlm eval WORD` does what stands in the file eval_WORD.py.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.score import Result
    from eval.task import Task

WORDS = {  # each is a file of its own, eval_WORD.py
    "compare": "two evaluated models on the same questions, with a paired test",
    "export": "write benchmarks for lmms-eval or VLMEvalKit",
    "prepare": "make a benchmark's shards of its official release",
    "report": "one page, a table or JSON of finished runs, side by side",
    "rescore": "score kept answers again, after a change of how they are read",
    "tasks": "list the benchmarks, and which of them are prepared",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    words = "\n".join(f"  vlm eval {word:<9} {text}" for word, text in WORDS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"also:\n{words}"
    parser.add_argument("--model", required=True, type=Path, metavar="FOLDER", help="folder of a trained model")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--tasks", metavar="NAME[,NAME]", help="benchmarks or groups of them, such as demo or demo/presence"
    )
    what.add_argument(
        "--shards", metavar="TAR", help="any benchmark shards in the record format: a .tar, a folder, a brace pattern"
    )
    parser.add_argument(
        "--mode",
        choices=("choose", "generate", "rate"),
        help="with --shards: rank the record's choices, compare a written answer, or rate text: bits per byte of a .txt, a .jsonl "
        "with text, a folder of .txt, or shards of text",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where answers and scores.json go (default: the folder the model stands in)",
    )
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="FOLDER",
        help="where `vlm eval prepare` put its shards (default: the environment variable CONCEPTVLM_BENCHMARKS, else ./benchmarks)",
    )
    parser.add_argument(
        "--prompt", metavar="VARIANT", help="another prompt of the benchmarks, such as official (`vlm eval tasks`)"
    )
    parser.add_argument(
        "--rule",
        choices=("sum", "per-token", "letter"),
        help="rank the choices by likelihood: of their texts with the end token, of their texts per token, or of A, B, ..",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="with --shards: leave bad records out, and count them as failed"
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="only N questions of each task, spread over all, the same ones each time (another N draws others)",
    )
    parser.add_argument(
        "--blind",
        type=blind_limit,
        default=500,
        metavar="N|full|off",
        help="how many questions are also asked without their pictures (default: 500)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=256,
        metavar="N",
        help="questions handed over at a time, and the most that a killed run loses (default: 256)",
    )
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON instead of a table")


def blind_limit(text: str) -> int | None:
    """`full` is None (all), `off` is 0, or a number of questions."""
    if text in ("full", "off"):
        return None if text == "full" else 0
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}; give a number of questions, full or off")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write; 1 if questions failed. Every fault of the user's input is found before the model is loaded.

    Under torchrun the processes share the questions; the first gathers, scores and prints.
    """
    from eval.ranks import Place
    from vlm.commands.folders import require_writable
    from vlm.model_folder import require_model_folder

    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}")
    place = Place.from_environment()
    tasks = chosen_tasks(args)
    require_model_folder(args.model)
    out = args.out if args.out is not None else default_folder(args.model, args.limit)
    require_writable(out, "--out")

    from eval.report import scores_table, write_scores
    from eval.run import answer_share, evaluate
    from vlm.inference.answer import ModelAnswerer
    from vlm.inference.load import load_model

    answerer = ModelAnswerer(load_model(args.model, args.device or own_device(place.world)))
    if place.rank > 0:
        for task in tasks:
            answer_share(task, answerer, out, place, args.blind, args.batch_size)
        return 0
    progress = Progress() if sys.stderr.isatty() else None
    path, results = out / "scores.json", {}
    kept = kept_results(out, answerer.fingerprint())
    for task in tasks:
        results[task.name] = evaluate(task, answerer, out, args.blind, args.batch_size, progress, place.world)
        write_scores(path, kept | results)  # after each: what ends a later task leaves these
    if args.json:
        scores = json.loads(path.read_text(encoding="utf-8"))
        print(json.dumps({name: scores[name] for name in results}, indent=2, ensure_ascii=False))
    else:
        print(scores_table(results))
        print(f"\nscores: {path}")
    # Who asks for bad records to be skipped has been told their number in the table.
    failed = {name: result.failed for name, result in results.items() if result.failed and not args.skip_bad}
    for name, number in failed.items():
        print(f"{name}: {number} questions failed; {out / name / 'result.json'} names them", file=sys.stderr)
    return 1 if failed else 0


def own_device(world: int) -> str | None:
    """The GPU of this process where several share a machine; None: the usual choice."""
    import torch

    if world == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def default_folder(model: Path, limit: int | None) -> Path:
    """The run's folder; for a few questions one of their own in it, so that they do not replace the whole score."""
    run_folder = model.resolve().parent
    return run_folder if limit is None else run_folder / f"limit-{limit}"


def chosen_tasks(args: argparse.Namespace) -> "list[Task]":
    """The tasks that the arguments name.

    Raises:
        ValueError: an unknown task, options that do not fit, or shards that cannot be opened.
    """
    from eval.subset import limited
    from eval.task import find_tasks, with_prompt, with_rule
    from eval.tasks.long_context import measured
    from eval.tasks.shards import BENCHMARKS, Benchmark
    from vlm.inference.measure import measure_of

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {args.limit}")
    if args.benchmarks is not None:
        os.environ[BENCHMARKS] = str(args.benchmarks)
    if args.shards is None:
        if args.mode is not None:
            raise ValueError("--mode is for --shards; a named task has a mode of its own")
        if args.skip_bad:
            raise ValueError("--skip-bad is for --shards; a benchmark that has a name is asked as a whole")
        tasks = find_tasks(args.tasks)
        for task in tasks:
            if isinstance(task.questions, Benchmark):
                task.questions.require()
        tasks = [measured(task, lambda: measure_of(args.model)) for task in tasks]
    else:
        tasks = [task_of_shards(args)]
    if args.rule is not None:
        tasks = [with_rule(task, args.rule) for task in tasks]
    if args.prompt is not None:
        tasks = [with_prompt(task, args.prompt) for task in tasks]
    return tasks if args.limit is None else [limited(task, args.limit) for task in tasks]


def task_of_shards(args: argparse.Namespace) -> "Task":
    """The task that --shards and --mode make.

    Raises:
        ValueError: shards that cannot be opened, or bad records in them that were not to be skipped.
    """
    from data.shards import open_shards
    from eval.tasks.shards import require_all_usable, shards_task

    if args.mode is None:
        raise ValueError(
            "--shards needs --mode choose (rank the record's choices), --mode generate (compare a written answer) or "
            "--mode rate (bits per byte of text)"
        )
    if args.mode == "rate":
        from eval.tasks.text import text_task

        rated = text_task(args.shards)
        texts = rated.questions()
        return replace(rated, questions=lambda: texts)
    open_shards(args.shards)
    task = shards_task(args.shards, args.mode)
    if args.skip_bad:
        return task
    questions = task.questions()
    require_all_usable(questions, args.shards, "mend the records, or leave them out with --skip-bad, which counts them")
    return replace(task, questions=lambda: questions)


def kept_results(folder: Path, fingerprint: str) -> "dict[str, Result]":
    """Scores of other tasks that the same model got before: evaluating one task more does not drop them."""
    from eval.score import Result

    kept: dict[str, Result] = {}
    for name in read_json(folder / "scores.json"):
        run, result = read_json(folder / name / "run.json"), read_json(folder / name / "result.json")
        if result and run.get("answerer") == fingerprint:
            kept[name] = Result(**result)
    return kept


def read_json(path: Path) -> dict[str, Any]:
    """An object that an evaluation wrote; empty where there is none: it is then asked for anew, never guessed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class Progress:
    """One line on the terminal that counts up, and ends with each task."""

    def __call__(self, name: str, done: int, total: int) -> None:
        print(f"\r{name}: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
