"""Conversion measured: a plain MoE trained on the demo's text, then continued as it is and as ConceptMoEs.

Every run is a process of `vlm fit` or `vlm convert`, as a user would start it, in `OUT/seed-S/NAME`. A run that is there
already is not made again, so that a broken measurement goes on where it stopped.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from vlm.backbone.cost import costs
from vlm.convert.to_conceptmoe import conceptmoe_config
from vlm.inference.curves import Series, read_curves
from vlm.model_folder import read_model_config

SOURCE = "source"
CONFIGS = ("demo-text.yaml", "demo-continual.yaml")
COMPRESSION, LOOP = 1.5, 2
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Variant:
    """One way of training on."""

    name: str
    convert: tuple[str, ...] | None  # of `vlm convert to-conceptmoe`; None: the source as it is
    open_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Continued:
    """What one run came to. Losses in nats for a token."""

    variant: str
    seed: int
    first_loss: float  # of the first training step
    loss: float  # on the validation text, at the end
    beside_source: float  # that loss relative to the source continued from the same seed: 0.01 is 1 % more
    compression: float | None  # tokens per concept, measured in evaluation mode at the end
    flops: float  # forward, for a token, at that compression, relative to the source
    kv_bytes: float  # of keys and values for a token, likewise
    training: Series  # (step, loss)
    validation: Series


def variants(source: Path, open_steps: int) -> tuple[Variant, ...]:
    """The ways to train on, the source as it is first."""
    looped = conceptmoe_config(read_model_config(source).backbone, COMPRESSION, LOOP)[1]
    ratio, loop = f"{COMPRESSION:g}", str(LOOP)
    return (
        Variant("source continued", None),
        Variant("top-k", ("--compression", ratio), open_steps),
        Variant("top-k, at once", ("--compression", ratio)),
        Variant("top-k, Eq. 10", ("--compression", ratio, "--residual", "concept"), open_steps),
        Variant("loop", ("--compression", ratio, "--loop", loop), open_steps),
        Variant("loop, not chunked", ("--compression", "1", "--loop", loop, "--top-k", str(looped))),
    )


def measure_conversion(
    out: Path, seeds: Sequence[int], open_steps: int, overrides: Sequence[str] = (), progress: Progress | None = None
) -> list[Continued]:
    """Make the runs that are missing, and read what all came to.

    Args:
        out: a folder for all runs.
        open_steps: of the variants whose chunker takes over gradually.
        overrides: settings of every `vlm fit`, such as `--trainer.max_steps 2`.

    Raises:
        ValueError: a run failed, or one in the folder was made by other settings.
    """
    results: list[Continued] = []
    done = 0
    for seed in seeds:
        folder = out / f"seed-{seed}"
        model = folder / SOURCE / "model"
        make(folder / SOURCE, fit(folder / SOURCE, CONFIGS[0], seed, overrides))
        ways = variants(model, open_steps)
        for variant in ways:
            one = folder / re.sub(r"\W+", "-", variant.name)
            train_on(one, model, variant, seed, overrides)
            results.append(read(one, model, variant, seed, results))
            done += 1
            if progress is not None:
                progress(done, len(ways) * len(seeds))
    return results


def train_on(folder: Path, source: Path, variant: Variant, seed: int, overrides: Sequence[str]) -> None:
    """Convert, and continue the training."""
    start = source
    if variant.convert is not None:
        start = folder.with_name(f"{folder.name}-converted")
        vlm = [sys.executable, "-m", "vlm.cli"]
        make(start, [*vlm, "convert", "to-conceptmoe", str(source), str(start), *variant.convert, "--seed", str(seed)])
    overlay = folder.with_name(f"{folder.name}.yaml")
    overlay.write_text(json.dumps({"backbone": str(start.resolve())}) + "\n")
    opening = ["--model.open_steps", str(variant.open_steps)] if variant.open_steps else []
    make(folder, [*fit(folder, CONFIGS[1], seed, [*opening, *overrides]), "--config", str(overlay)])


def fit(folder: Path, config: str, seed: int, settings: Sequence[str]) -> list[str]:
    """A run's command."""
    here = ["--trainer.default_root_dir", str(folder)]
    seeds = ["--seed_everything", str(seed), "--data.seed", str(seed + (1000 if config == CONFIGS[1] else 0))]
    return [sys.executable, "-m", "vlm.cli", "fit", "--config", config, *here, *seeds, *settings]


def make(folder: Path, command: list[str]) -> None:
    """Run a command whose result is a folder, unless it ran before.

    Raises:
        ValueError: it failed, or the folder is of another command.
    """
    note = folder.with_name(f"{folder.name}.json")
    if note.is_file():
        if json.loads(note.read_text()) != command[1:]:
            raise ValueError(f"{folder} was made by other settings ({note}); take it away, or name another --out")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        last = log.read_text().strip().splitlines()[-1:]
        raise ValueError(f"{' '.join(command[2:6])} ended with exit code {code}: {' '.join(last)} (all of it: {log})")
    note.write_text(json.dumps(command[1:]) + "\n")


def read(folder: Path, source: Path, variant: Variant, seed: int, results: Sequence[Continued]) -> Continued:
    """What a run came to."""
    curves = read_curves(folder)
    loss = curves["val/loss"][-1][1]
    base = next((one.loss for one in results if one.seed == seed and one.variant == "source continued"), loss)
    compression = curves["val/compression"][-1][1] if "val/compression" in curves else None
    measured = None if compression is None else (compression, compression)
    before = costs(read_model_config(source).backbone).text
    after = costs(read_model_config(folder / "model").backbone, measured=measured).text
    return Continued(
        variant=variant.name,
        seed=seed,
        first_loss=curves["train/loss"][0][1],
        loss=loss,
        beside_source=loss / base - 1,
        compression=compression,
        flops=after.flops / before.flops,
        kv_bytes=after.kv_bytes / before.kv_bytes,
        training=curves["train/loss"],
        validation=curves["val/loss"],
    )


HEAD = (
    "continued as",
    "loss of the first step",
    "loss at the end",
    "beside the source, %",
    "compression",
    "FLOPs",
    "KV bytes",
)


def table(results: Sequence[Continued]) -> list[tuple[str, ...]]:
    """A line for each variant: means over seeds, with the least and the greatest in brackets."""

    def spread(values: Sequence[float], form: str) -> str:
        return f"{mean(values):{form}} [{min(values):{form}}, {max(values):{form}}]"

    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(one.variant for one in results):
        own = [one for one in results if one.variant == name]
        ratios = [one.compression for one in own if one.compression is not None]
        rows.append(
            (
                name,
                spread([one.first_loss for one in own], ".2f"),
                spread([one.loss for one in own], ".3f"),
                spread([100 * one.beside_source for one in own], "+.1f"),
                spread(ratios, ".2f") if ratios else "-",
                f"{mean(one.flops for one in own):.2f}",
                f"{mean(one.kv_bytes for one in own):.2f}",
            )
        )
    return rows
