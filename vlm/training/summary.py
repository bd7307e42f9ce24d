"""The table shown once before training: what learns, what it costs, how many slots a picture takes."""

from collections.abc import Set
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import LightningModule

from data.image import ImageLayout
from vlm.backbone.cost import flops_per_token
from vlm.training.parts import learning_rates

# The first pattern that a weight's path matches is its part's.
PARTS = {
    "*.lora_*": "adapters",
    "encoder.*": "encoder",
    "connector.*": "connector",
    "embed.*": "embed",
    "backbone.encoder.*": "backbone encoder layers",
    "backbone.chunker.*": "chunker",
    "backbone.project_*": "projectors",
    "backbone.concept.*": "concept layers",
    "backbone.decoder.*.joint_*": "joint projections",
    "backbone.decoder.*": "decoder layers",
    "backbone.norm.*": "last norm",
    "head.*": "head",
}


def summary_rows(module: Any) -> list[tuple[str, str, str, str]]:
    """(part, parameters, learns or frozen, learning rate) of each part of the model, and of all together."""
    optimizer = module.optimizer_config
    rates = learning_rates(module.vlm, optimizer.lr, optimizer.lr_of, optimizer.layer_decay)
    after = module.unfreezing.after
    sizes = {path: parameter.numel() for path, parameter in module.vlm.named_parameters()}
    weights: dict[str, list[str]] = {part: [] for part in PARTS.values()}
    for path in sizes:
        weights[next(part for pattern, part in PARTS.items() if fnmatchcase(path, pattern))].append(path)
    rows = []
    for part, paths in weights.items():
        total = sum(sizes[path] for path in paths)
        learning = sum(sizes[path] for path in paths if path in rates)
        state = "learns" if learning == total else "frozen" if learning == 0 else f"{learning:,} learn"
        if later := [path for path in paths if path in after]:
            steps = " to ".join(f"{step:,}" for step in sorted({after[path] for path in later}))
            late = sum(sizes[path] for path in later)
            state += f" after step {steps}" if late == learning else f", {late:,} of them after step {steps}"
        if total:
            rows.append((part, f"{total:,}", state, _range({rates[path] for path in paths if path in rates})))
    learning = sum(sizes[path] for path in rates)
    return [*rows, ("all", f"{sum(sizes.values()):,}", f"{learning:,} learn", _range(set(rates.values())))]


def _range(rates: Set[float]) -> str:
    ends = sorted({min(rates), max(rates)}) if rates else []
    return " to ".join(f"{rate:g}" for rate in ends)


def summary_facts(module: Any) -> dict[str, str]:
    """Where the weights come from, FLOPs per token, and slots per picture."""
    vlm = module.vlm
    flops = flops_per_token(vlm.config.backbone) / 1e6
    facts = {} if module.start is None else {"begins with": _beginning(module)}
    facts |= {
        "FLOPs per token, forward": f"{flops:,.1f} M (backbone, at the target compression, without attention maps)"
    }
    if vlm.layout is not None:
        facts["image slots per picture"] = _slots(vlm.layout)
    return facts


def _beginning(module: Any) -> str:
    """`runs/text/model; new: connector, encoder (its weights: package)`."""
    encoder = module.vlm.config.encoder
    own = encoder.get("weights") if isinstance(encoder, dict) else None
    named = [f"encoder (its weights: {own})" if part == "encoder" and own else part for part in module.new_parts]
    return f"{module.start}; new: {', '.join(named) or 'nothing'}"


def _slots(layout: ImageLayout) -> str:
    crop, size = layout.reference.crops[0], layout.spec.size_px
    markers = f" and {int(layout.reference.is_marker.sum())} markers" if layout.reference.is_marker.any() else ""
    slots = f"{layout.slots} ({crop.rows} x {crop.columns}{markers} from {size} x {size} px)"
    return slots if layout.most_slots == layout.slots else f"{slots}, {layout.most_slots} at most"


def print_summary(module: LightningModule) -> None:
    """Print the table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="what trains", title_justify="left")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("state")
    table.add_column("lr", justify="right")
    for row in summary_rows(module):
        table.add_row(*row)
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    for name, value in summary_facts(module).items():
        console.print(f"{name}: {value}", highlight=False)
