"""`vlm check leak`: whether the records of a packed row see each other, and if so, where in the model it begins.

Nothing is trained, downloaded or written. Without `--model` the weights are random.
"""

import argparse
import json
import math
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.shards import ShardSet
    from vlm.leak_check.ledger import Finding
    from vlm.leak_check.records import Record
    from vlm.model import VisionLanguageModel

LINE = 118  # characters
CONFIG, DEMO = "demo.yaml", ("presence", "scenes", "clipart", "text")
NOTE = """\
Differences are relative to the largest number at the same place, over all parts of the model; gradients as they are.
Not leaks: the balance, z and ratio losses are made of all tokens of a row, and so are the gradients that weights get from
them. No record's vectors, probabilities or loss depend on them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help=f"a run's config, with random weights; may be repeated for overlays (default: {CONFIG})",
    )
    model.add_argument("--model", type=Path, metavar="FOLDER", help="folder of a trained model")
    parser.add_argument(
        "--data",
        action="append",
        metavar="SOURCE",
        help="a tar, a folder of tars, a dataset.json, a pattern or demo:PART; may be repeated "
        "(default: the config's data.train, or parts of the demo)",
    )
    parser.add_argument("--rows", type=int, default=4, metavar="N", help="packings in each mode (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, records and changes (default: 0)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="float32 for a model too large for float64: rounding may then decide a boundary, and look like a leak",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a page")


def run(args: argparse.Namespace) -> int:
    """Check and print.

    Raises:
        ValueError: a leak was found, or the check cannot be made.
    """
    from vlm.commands.imports import collector_paused

    with collector_paused():
        import torch

        from vlm.inference.load import usable_device
        from vlm.leak_check.check import ALLOWED, check_leaks
        from vlm.leak_check.records import find_records
        from vlm.training.progress import progress
    if args.rows < 1:
        raise ValueError(f"--rows must be at least 1, got {args.rows}")
    began = time.monotonic()
    device, dtype = usable_device(args.device), getattr(torch, args.dtype)
    torch.manual_seed(args.seed)
    name, model, sources = model_and_data(args)
    model.to(device=device, dtype=dtype)
    room = 512 + (0 if model.layout is None else 3 * model.layout.most_slots)
    records = find_records(sources, model.tokenizer, model.layout, max_tokens=room, seed=args.seed)
    with progress("rows", 2 * args.rows) as show:
        findings = check_leaks(model, records, num_rows=args.rows, seed=args.seed, progress=show)
    seconds = time.monotonic() - began
    if args.json:
        found = as_json(name, args.dtype, ALLOWED[dtype], records, findings)
        print(json.dumps(found, indent=2))
    else:
        print(as_text(name, args.dtype, args.rows, records, findings, seconds))
    leaking = sorted({finding.probe for finding in findings if finding.leaks})
    if leaking:
        raise ValueError(f"{name} leaks: {len(leaking)} of the probes found something: {', '.join(leaking)}")
    return 0


def model_and_data(args: argparse.Namespace) -> "tuple[str, VisionLanguageModel, list[ShardSet]]":
    """What the model is called, the model, and the opened sources.

    Raises:
        ValueError: a config, a folder or a source is wrong.
    """
    from data.module import DataModule
    from vlm.commands.configs import find_config
    from vlm.commands.demo import expand
    from vlm.leak_check.check import open_closed_paths

    if args.model is not None:
        model, own, name = model_of_folder(args.model)
    else:
        configs = [find_config(one) for one in args.config or [CONFIG]]
        name = " + ".join(Path(one).name for one in configs) + ", random weights"
        model, own = model_of_config(configs)
        open_closed_paths(model, args.seed)
    places = args.data or own or [f"demo:train/{part}" for part in (DEMO if model.layout is not None else ("text",))]
    if any(place.startswith("demo:") for place in places):
        expand()
    data = DataModule(model.config.tokenizer, model.layout, train=list(dict.fromkeys(places)))
    return name, model, [source.shards for source in data.sources("train")]


def model_of_config(configs: Sequence[str]) -> "tuple[VisionLanguageModel, list[str]]":
    """The config's model, with its frozen parts frozen, and the places of its training data.

    Raises:
        ValueError: a file or a setting that `vlm fit` would refuse too.
    """
    from vlm.commands.plan import read_settings
    from vlm.model import VisionLanguageModel
    from vlm.training.parts import choose_learning

    settings = read_settings(configs)
    group = vars(settings["model"])
    model = VisionLanguageModel(group["config"])
    choose_learning(model, group["train_only"], group["freeze"])
    return model, _paths(settings["data"]["train"])


def model_of_folder(folder: Path) -> "tuple[VisionLanguageModel, list[str], str]":
    """A trained model, with what its run froze frozen, where the run's config lies beside its folder; the places of the run's
    training data that are still there; and what to call it."""
    from vlm.commands.configs import require_settings
    from vlm.model import VisionLanguageModel
    from vlm.training.parts import choose_learning

    model, config = VisionLanguageModel.from_pretrained(folder), folder.absolute().parent / "config.yaml"
    if not config.is_file():
        return model, [], f"{folder}, all parts learning in training mode (no config.yaml of its run beside it)"
    settings = require_settings(config)
    group, data = settings.get("model", {}), settings.get("data", {})
    choose_learning(model, group.get("train_only"), group.get("freeze"))
    paths = [path for path in _paths(data.get("train")) if path.startswith("demo:") or Path(path).exists()]
    return model, paths, f"{folder}, parts frozen as in {config.name} beside it"


def _paths(train: Any) -> list[str]:
    return [source if isinstance(source, str) else source["path"] for source in train or []]


def as_json(
    name: str, dtype: str, allowed: float, records: "Sequence[Record]", findings: "Sequence[Finding]"
) -> dict[str, Any]:
    """Everything that was found; a difference that is no number is null."""
    found = [asdict(finding) | {"largest": _finite(finding.largest)} for finding in findings]
    leaks = sum(len(finding.leaks) for finding in findings)
    kinds = Counter(record.kind for record in records)
    return {"model": name, "dtype": dtype, "allowed": allowed, "records": kinds, "leaks": leaks, "findings": found}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def as_text(
    name: str, dtype: str, rows: int, records: "Sequence[Record]", findings: "Sequence[Finding]", seconds: float
) -> str:
    """One page: a line for each probe, then each leak in words."""
    from vlm.commands.plan import table

    kinds = Counter(record.kind for record in records)
    mix = ", ".join(f"{number} of {kind}" for kind, number in kinds.items())
    lines = [f"{name}, {dtype}: {rows} rows in each mode, packed from {len(records)} records ({mix})", ""]
    probes = list(dict.fromkeys(finding.probe for finding in findings))
    cells = []
    for probe in probes:
        here = {finding.mode: finding for finding in findings if finding.probe == probe}
        one = next(iter(here.values()))
        modes = [_largest(here.get(mode)) for mode in ("evaluation", "training")]
        leaks = any(finding.leaks for finding in here.values())
        cells.append((probe, *modes, f"{one.allowed:.0e}" if one.allowed else "0", "LEAK" if leaks else "none"))
    lines.append(table(("probe", "evaluation", "training", "allowed", "leak"), cells))
    told = [leak for finding in findings for leak in finding.leaks]
    lines += ["", *(textwrap.fill(f"LEAK {leak}", LINE, subsequent_indent="     ") for leak in told)] if told else []
    compared = sum(finding.compared for finding in findings)
    outcome = f"failed: {len(told)} leaks" if told else "passed: no record of a row sees another, nor what comes after"
    return "\n".join([*lines, "", NOTE, "", f"{outcome}; {compared:,} comparisons, {seconds:.0f} s"])


def _largest(finding: "Finding | None") -> str:
    if finding is None or not finding.compared:
        return "-"
    return f"{finding.largest:.1e}" if finding.largest else "0"
