"""`vlm encoder compare`: train and score one model behind each of several encoders, and put them side by side."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--encoders",
        default="compare-encoders.yaml",
        metavar="NAME,NAME|FILE",
        help="names, or a YAML file of label -> encoder with its settings (default: compare-encoders.yaml of the package)",
    )
    parser.add_argument(
        "--config", default="compare.yaml", metavar="FILE", help="what all share (default: compare.yaml of the package)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/encoders"), metavar="DIR", help="of all runs (default: runs/encoders)"
    )
    parser.add_argument("--seeds", default="0,1,2", metavar="N,N", help="which seeds (default: 0,1,2)")
    parser.add_argument(
        "--tasks", default="demo", metavar="NAME[,NAME]", help="benchmarks or groups of them (default: demo)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N questions of each task, spread over all, the same ones each time"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of every training, such as trainer.max_steps=20; may be repeated",
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="the page to write (default: DIR/report.html)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Check all, make the runs that are missing, measure, print, write the page."""
    from eval.subset import limited
    from vlm.commands.folders import require_writable
    from vlm.commands.imports import collector_paused

    seeds = seeds_of(args.seeds)
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {args.limit}")
    page = args.page or args.out / "report.html"
    with collector_paused():
        from eval.predictions import write_atomically
        from eval.task import find_tasks
        from vlm.commands.bench import aligned
        from vlm.commands.configs import find_config
        from vlm.commands.demo import expand
        from vlm.encoder_comparison import table as tables
        from vlm.encoder_comparison.cost import measure_costs
        from vlm.encoder_comparison.lineup import contenders, read_lineup
        from vlm.encoder_comparison.page import draw_page
        from vlm.encoder_comparison.runs import make_runs
        from vlm.training.progress import progress
    config = find_config(args.config)
    tasks = find_tasks(args.tasks)
    found = contenders(read_lineup(args.encoders), config, args.set)
    require_writable(args.out, "--out")
    require_writable(page.parent, "--page")
    expand()
    asked = tasks if args.limit is None else [limited(task, args.limit) for task in tasks]
    with progress("runs", len(found) * len(seeds)) as show:
        runs = make_runs(found, args.out, config, seeds, asked, args.limit, show)
    models = {next(run for run in runs if run.label == one.label).folder / "model": one for one in found}
    rows = tables.rows(runs, measure_costs(models), asked)
    less_first = tables.differences(runs, asked)
    facts = {
        "encoders": str(len(found)),
        "seeds": str(len(seeds)),
        "vectors a picture": str(found[0].vectors),
        "tasks": str(len(tasks)),
        "questions": f"{sum(result.n for result in runs[0].results.values()):,}",
    }
    write_atomically(page, draw_page(rows, less_first, found, Path(config).read_text(encoding="utf-8"), facts))
    if args.json:
        results = [asdict(row) | {"cost": asdict(row.cost) | {"learns": row.cost.learns}} for row in rows]
        less = {
            label: [asdict(one) | {"difference": one.difference} for one in own] for label, own in less_first.items()
        }
        print(json.dumps({"seeds": seeds, "results": results, "less_first": less, "page": str(page)}, indent=1))
        return 0
    print(*aligned(tables.HEAD, tables.table(rows)), f"\n{tables.NOTES}\n", sep="\n")
    print(*aligned(*tables.task_table(rows)), "", sep="\n")
    print(*aligned(*tables.difference_table(rows[0].label, less_first)), sep="\n")
    print(f"\nruns: {args.out}\npage: {page}")
    return 0


def seeds_of(text: str) -> list[int]:
    """`0,1,2`, each once.

    Raises:
        ValueError: something else.
    """
    seeds = [seed.strip() for seed in text.split(",")]
    if not all(seed.isdecimal() for seed in seeds):
        raise ValueError(f"--seeds are whole numbers with commas between them, got {text!r}; give for instance 0,1,2")
    return list(dict.fromkeys(map(int, seeds)))
