"""`vlm eval report`: finished runs as one page, as Markdown and as JSON, side by side."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders that `vlm eval` wrote; the others are compared with the first",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page without scripts and outside files")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables as Markdown (default: print them)"
    )
    parser.add_argument(
        "--scores", type=Path, metavar="FILE", help="write the scores of all runs as JSON (scores.json)"
    )
    parser.add_argument(
        "--examples", type=int, default=2, metavar="N", help="answers of each kind and task on the page (default: 2)"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="the model of the first run, so that its long contexts can be shown",
    )
    parser.add_argument(
        "--benchmarks",
        type=Path,
        metavar="FOLDER",
        help="where shards are (default: the environment variable CONCEPTVLM_BENCHMARKS, else ./benchmarks)",
    )


def run(args: argparse.Namespace) -> int:
    """Read what the runs kept; write what was asked for."""
    import os

    from eval.predictions import write_atomically
    from eval.tasks.shards import BENCHMARKS
    from vlm.eval_report.gallery import Gallery
    from vlm.eval_report.page import draw_page
    from vlm.eval_report.runs import read_runs, task_names
    from vlm.eval_report.scores import markdown, scores_json
    from vlm.model_folder import require_model_folder

    if args.examples < 0:
        raise ValueError(f"--examples must be at least 0, got {args.examples}")
    for option, path in (("--html", args.html), ("--markdown", args.markdown), ("--scores", args.scores)):
        if path is not None and path.exists() and not path.is_file():
            raise ValueError(f"{option} {path} is no file but a folder or a device; name a file to write")
    if args.benchmarks is not None:
        os.environ[BENCHMARKS] = str(args.benchmarks)
    if args.model is not None:
        require_model_folder(args.model)
    runs = read_runs(args.runs)
    if args.html is not None:
        gallery = Gallery(runs, args.model)
        shown = {name: gallery.cards(name, args.examples) for name in task_names(runs)}
        write_atomically(args.html, draw_page(runs, shown))
    if args.markdown is not None:
        write_atomically(args.markdown, markdown(runs))
    if args.scores is not None:
        write_atomically(args.scores, scores_json(runs))
    written = [path for path in (args.html, args.markdown, args.scores) if path is not None]
    for path in written:
        print(path)
    if not written:
        print(markdown(runs))
    return 0
