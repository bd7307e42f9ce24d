"""`vlm demo`: train a small model on real pictures, score it, and write a page that shows what it does."""

import argparse
import resource
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vlm.inference.curves import Series
    from vlm.model import VisionLanguageModel

CONFIG = "demo.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="the run's folder (default: runs/demo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the order of the data and every draw")
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="overlay on the demo's config; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """The whole walk, from shards to the report."""
    from vlm.commands.configs import find_config
    from vlm.commands.folders import require_writable
    from vlm.commands.imports import collector_paused, torchmetrics_alone

    began = time.monotonic()
    overlays = [part for overlay in args.config for part in ("--config", find_config(overlay))]
    require_writable(args.out, "--out")
    expand()
    # An overlay may name an encoder or a callback of the user's own.
    with collector_paused(), nullcontext() if args.config else torchmetrics_alone():
        from vlm.commands.fit import run_lightning
    here = ["--trainer.default_root_dir", str(args.out)]
    seeds = ["--seed_everything", str(args.seed), "--data.seed", str(args.seed)]
    run_lightning("fit", ["--config", find_config(CONFIG), *overlays, *here, *seeds])
    trained = time.monotonic()
    print(f"trained in {(trained - began) / 60:.1f} minutes; now the scores", flush=True)
    table = evaluate_and_report(args.out, trained - began)
    print(table)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all, {peak:.1f} GiB of memory at most in one process")
    print(f"scores: {args.out / 'scores.json'}\nmodel:  {args.out / 'model'}\nreport: {args.out / 'report.html'}")
    return 0


def expand() -> None:
    """Make the demo's data ready; only the first time takes long."""
    from data.assets.expand import demo_folder
    from vlm.training.progress import progress

    with progress("preparing the demo's pictures and texts", 1) as show:
        demo_folder(progress=show)


def evaluate_and_report(out: Path, train_s: float) -> str:
    """Score the model of a run on the demo's tasks, write scores.json and report.html; returns the table."""
    from eval.report import scores_html, scores_table, write_scores
    from eval.run import evaluate
    from eval.task import find_tasks
    from vlm.commands.eval import Progress
    from vlm.inference.answer import ModelAnswerer
    from vlm.inference.curves import read_curves
    from vlm.inference.examples import collect_examples
    from vlm.inference.load import load_model
    from vlm.inference.report import write_report

    model = load_model(out / "model")
    answerer = ModelAnswerer(model)
    tasks = find_tasks("demo")
    told = Progress() if sys.stderr.isatty() else None
    shutil.rmtree(out / "demo", ignore_errors=True)  # the answers of an earlier model
    results = {task.name: evaluate(task, answerer, out, progress=told) for task in tasks}
    write_scores(out / "scores.json", results)
    curves = read_curves(out)
    chunk = model.config.backbone.chunk
    write_report(
        out / "report.html",
        title="ConceptVLM demo",
        lead="A vision-language model trained from scratch on this machine: what it learned, "
        "how sure its scores are, and which tokens it merges into concepts.",
        curves=curves,
        scores_html=scores_html(results),
        examples=collect_examples(model, out, tasks),
        facts=facts(model, curves, train_s),
        target_compression=None if chunk is None else chunk.compression,
    )
    return scores_table(results)


def facts(model: "VisionLanguageModel", curves: "Mapping[str, Series]", train_s: float) -> dict[str, str]:
    """The figures at the top of the report."""
    learned = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    frozen = sum(p.numel() for name, p in model.named_parameters() if name.startswith("encoder."))

    def last(name: str, form: str) -> str:
        points = curves.get(name)
        return format(points[-1][1], form) if points else "none"

    return {
        "parameters learned": f"{learned / 1e6:.2f} M",
        "frozen encoder": f"{frozen / 1e6:.2f} M",
        "steps": f"{curves['train/loss'][-1][0]:,.0f}" if curves.get("train/loss") else "none",
        "training time": f"{train_s / 60:.1f} min",
        "validation loss": last("val/loss", ".3f"),
        "tokens per concept, text": last("val/compression_text", ".2f"),
        "tokens per concept, image": last("val/compression_image", ".2f"),
    }
