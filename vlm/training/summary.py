"""The table shown once before training: what learns, what it costs, how many slots a picture takes."""

from typing import Any

from lightning.pytorch import LightningModule

from vlm.backbone.cost import flops_per_token

PARTS = ("encoder", "connector", "embed", "backbone", "head")


def summary_rows(module: Any) -> list[tuple[str, str, str]]:
    """(part, parameters, learns or frozen) of each part of the model."""
    rows = []
    for name in PARTS:
        part = getattr(module.vlm, name)
        if part is None:
            continue
        parameters = list(part.parameters())
        learning = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        state = "learns" if learning == total else "frozen" if learning == 0 else f"{learning:,} learn"
        rows.append((name, f"{total:,}", state))
    return rows


def summary_facts(module: Any) -> dict[str, str]:
    """FLOPs per token and slots per picture."""
    vlm = module.vlm
    flops = flops_per_token(vlm.config.backbone) / 1e6
    facts = {
        "FLOPs per token, forward": f"{flops:,.1f} M (backbone, at the target compression, without attention maps)"
    }
    if vlm.layout is not None:
        size = vlm.layout.spec.size_px
        facts["image slots per picture"] = (
            f"{vlm.layout.slots} ({vlm.layout.rows} x {vlm.layout.columns} from {size} x {size} px)"
        )
    return facts


def print_summary(module: LightningModule) -> None:
    """Print the table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="what trains", title_justify="left")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("state")
    for row in summary_rows(module):
        table.add_row(*row)
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    for name, value in summary_facts(module).items():
        console.print(f"{name}: {value}", highlight=False)
