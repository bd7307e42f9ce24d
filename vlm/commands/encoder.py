"""`vlm encoder`: examine a vision encoder before anything is trained with it, list those that have a name, compare several."""

import argparse
import difflib
import fnmatch
import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from encoders.probes import Examination

LINE = 118  # characters
COLUMNS = (16, 8)  # characters of a probe's name and of its state
MEBIBYTE = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from vlm.commands import encoder_compare

    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    check = kinds.add_parser(
        "check",
        help="whether an encoder works, what it costs, and what is wrong with it",
        description="Run an encoder with random weights on random pictures; nothing is downloaded. "
        "The exit code is 0 only when it passes.",
    )
    check.add_argument(
        "name", metavar="NAME", help="timm:NAME, open_clip:NAME, hf:FOLDER, or the path of a class: my_module.MyEncoder"
    )
    check.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the encoder, such as size_px=64; may be repeated",
    )
    check.add_argument("--pretrained", action="store_true", help="with its published weights (downloads them)")
    check.add_argument("--json", action="store_true", help="print one JSON object instead of a page")
    listed = kinds.add_parser("list", help="the encoders that have a name", description="Print one name a line.")
    listed.add_argument(
        "pattern", nargs="?", metavar="PATTERN", help="only names that contain this, or match it: 'timm:vit_*siglip*'"
    )
    listed.add_argument("--json", action="store_true", help="print one JSON list instead of lines")
    encoder_compare.add_arguments(
        kinds.add_parser(
            "compare",
            help="train and score one model behind each of several encoders",
            description=str(encoder_compare.__doc__).partition(": ")[2],
        )
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    if args.kind == "compare":
        from vlm.commands import encoder_compare

        return encoder_compare.run(args)
    return {"check": check_one, "list": list_names}[args.kind](args)


def check_one(args: argparse.Namespace) -> int:
    """Examine an encoder and print what was found.

    Raises:
        ValueError: it cannot be built, or a probe failed.
    """
    from vlm.commands.imports import collector_paused

    with collector_paused():
        from encoders.probes import examine_encoder
    settings = read_settings(args.set)
    if args.pretrained:
        if "weights" in settings:
            raise ValueError(f"--pretrained and --set weights={settings['weights']} both say which weights; give one")
        settings["weights"] = "hub"
    encoder = build(args.name, settings)
    random_settings = {key: value for key, value in settings.items() if key != "weights"}
    found = examine_encoder(encoder, lambda: build(args.name, random_settings))
    weights = settings.get("weights") or "random"
    print(json.dumps(as_json(args.name, weights, found), indent=2) if args.json else as_text(args.name, weights, found))
    if found.faults:
        raise ValueError(
            f"{args.name} fails {len(found.faults)} of {len(found.findings)} probes: "
            f"{', '.join(fault.probe for fault in found.faults)}"
        )
    return 0


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`size_px=64` as a mapping; a value is read as YAML.

    Raises:
        ValueError: no pair, or a setting named twice.
    """
    import yaml

    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--set takes a setting of the encoder, KEY=VALUE, such as size_px=64; got {pair!r}")
        if key == "name":
            raise ValueError(f"--set {pair}: the encoder's name stands first, vlm encoder check NAME")
        if key in settings:
            raise ValueError(f"--set {key} is given twice, {settings[key]!r} and {value!r}; give it once")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {pair!r}: {value!r} is no YAML value ({error})") from error
    return settings


def build(name: str, settings: dict[str, Any]) -> "nn.Module":
    """An encoder with its weights."""
    from encoders.protocol import from_name

    encoder: Any = from_name(name, **settings)
    return encoder.materialise() if hasattr(encoder, "materialise") else encoder


def list_names(args: argparse.Namespace) -> int:
    """Print the names that match.

    Raises:
        ValueError: none does.
    """
    import open_clip
    import timm

    names = [f"timm:{name}" for name in timm.list_models()]
    names += [f"open_clip:{name}" for name in open_clip.list_models()]
    found = [name for name in names if matches(name, args.pattern)]
    if not found:
        near = difflib.get_close_matches(args.pattern, [*names, *(name.partition(":")[2] for name in names)], n=3)
        raise ValueError(
            f"none of {len(names)} encoders matches {args.pattern!r}; "
            f"{'near: ' + ', '.join(near) if near else 'vlm encoder list shows them all'}"
        )
    print(json.dumps(found, indent=0) if args.json else "\n".join(found))
    return 0


def matches(name: str, pattern: str | None) -> bool:
    """Whether a name contains the pattern, or as a whole fits its stars."""
    if pattern is None:
        return True
    return pattern in name or any(fnmatch.fnmatchcase(one, pattern) for one in (name, name.partition(":")[2]))


def as_json(name: str, weights: str, found: "Examination") -> dict[str, Any]:
    """Everything that was found."""
    from dataclasses import asdict

    return {"name": name, "weights": weights, "passed": not found.faults, **asdict(found)}


def as_text(name: str, weights: str, found: "Examination") -> str:
    """One page: the probes, then the figures."""
    heading = [f"{name}  ({found.kind}, {weights} weights, pictures of {found.size_px} x {found.size_px})", ""]
    rows = [row("probe", "", "found"), "-" * LINE]
    rows += [row(finding.probe, finding.state, finding.text) for finding in found.findings]
    figures = [row(title, "", value) for title, value in figures_of(found)]
    notes = sum(finding.state == "note" for finding in found.findings)
    outcome = "failed" if found.faults else "passed"
    count = f"{len(found.findings)} probes, {len(found.faults)} failed, {notes} with a note, {found.seconds:.1f} s"
    return "\n".join([*heading, *rows, "", *figures, "", f"{outcome}: {count}"])


def figures_of(found: "Examination") -> list[tuple[str, str]]:
    """What the encoder costs, in words; what could not be measured is left out."""
    learns = "all learn" if found.trainable == found.parameters else f"{found.trainable:,} learn"
    figures = [("parameters", f"{found.parameters:,}, {learns}; {4 * found.parameters / MEBIBYTE:,.1f} MiB in float32")]
    if found.flops is not None and found.grid is not None:
        vectors = found.grid[0] * found.grid[1]
        each = f"{found.flops / vectors / 1e6:,.1f} million for each of {vectors} vectors"
        figures.append(("FLOPs", f"{found.flops / 1e9:,.2f} billion a picture, forward; {each}"))
    if found.pictures_per_s is not None:
        figures.append(("speed", f"{found.pictures_per_s:,.1f} pictures/s, one at a time, no gradients, this machine"))
    if found.stored_bytes:
        figures.append(("memory", f"{found.stored_bytes / MEBIBYTE:,.1f} MiB a picture kept for the backward pass"))
    return figures


def row(first: str, second: str, text: str) -> str:
    """A line of the page, its text wrapped into a column."""
    margin = sum(COLUMNS)
    lines = textwrap.wrap(text, LINE - margin, break_long_words=False) or [""]
    return f"{first.ljust(COLUMNS[0])}{second.ljust(COLUMNS[1])}" + ("\n" + " " * margin).join(lines)
