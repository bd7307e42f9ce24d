"""Examine an encoder beyond the check: preparation, order, other sizes, gradients, precision, copies, cost.

In: an encoder with weights. Out: an `Examination`, a finding for each probe, of a failed one the sentence that tells how
to mend it, and the figures. `vlm encoder check` prints it.
"""

import copy
import pickle
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from encoders.check import CHECKS, Note, Trial, begin, features_of, in_mode
from encoders.gradients import probe_gradients
from encoders.precision import difference, probe_autocast, probe_bf16_weights
from encoders.protocol import VisionEncoder

# A picture of another size is encoded where that costs at most so much, under a second on a core; else only grid() is asked.
AFFORDABLE_FLOPS = 3e10
TIMED_RUNS, TIMED_S = 3, 2.0  # no further run once they took so long


@dataclass(frozen=True)
class Finding:
    """What one probe found."""

    probe: str
    state: Literal["ok", "note", "failed"]
    text: str


@dataclass(frozen=True)
class Examination:
    """What an encoder is, what it costs, and what the probes found."""

    kind: str  # the encoder's class
    size_px: int
    grid: tuple[int, int] | None
    width: int | None
    parameters: int
    trainable: int  # of the parameters
    flops: int | None  # forward, of one picture; a multiply-add is 2
    stored_bytes: int | None  # that the backward pass of one picture needs
    pictures_per_s: float | None  # one at a time, without gradients
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[Finding]:
        """The probes that failed."""
        return [finding for finding in self.findings if finding.state == "failed"]


@dataclass
class Figures:
    """What was measured on the way."""

    flops: int | None = None
    stored_bytes: int | None = None
    pictures_per_s: float | None = None


def examine_encoder(encoder: nn.Module, rebuild: Callable[[], nn.Module] | None = None) -> Examination:
    """Run every probe; its mode, weights, buffers and gradients are afterwards what they were.

    Args:
        rebuild: makes the same encoder anew with weights of another draw, to see whether its state is complete.
    """
    started = time.perf_counter()
    figures, findings = Figures(), []
    trial: Trial | None = None
    with torch.random.fork_rng(devices=[]):
        try:
            trial = begin(encoder)
        except ValueError as error:
            findings.append(Finding("encode", "failed", str(error)))
        if trial is not None:
            findings += _run_checks(trial)
        if trial is not None and all(finding.state == "ok" for finding in findings):
            findings += _run_probes(trial, figures, rebuild)
    sound = not any(finding.probe in (*CHECKS, "encode") and finding.state == "failed" for finding in findings)
    spec = getattr(encoder, "spec", None)
    return Examination(
        kind=type(encoder).__name__,
        size_px=getattr(spec, "size_px", 0),
        grid=trial.grid if sound and trial is not None else None,
        width=trial.encoder.width if trial is not None else None,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        trainable=sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad),
        flops=figures.flops,
        stored_bytes=figures.stored_bytes,
        pictures_per_s=figures.pictures_per_s,
        seconds=time.perf_counter() - started,
        findings=tuple(findings),
    )


def _run_checks(trial: Trial) -> list[Finding]:
    """Up to the first that fails: the later ones presume the earlier."""
    findings: list[Finding] = []
    with in_mode(trial.module, training=False), torch.no_grad():
        for name, check in CHECKS.items():
            findings.append(_find(name, lambda check=check: check(trial)))  # type: ignore[misc]
            if findings[-1].state == "failed":
                break
    return findings


def _run_probes(trial: Trial, figures: Figures, rebuild: Callable[[], nn.Module] | None) -> list[Finding]:
    def gradients() -> str:
        told, figures.stored_bytes = probe_gradients(trial)
        return told

    with in_mode(trial.module, training=False), torch.no_grad():
        figures.flops = count_flops(trial)
        figures.pictures_per_s = time_pictures(trial)
    probes: Mapping[str, Callable[[], str]] = {
        "preparation": lambda: probe_preparation(trial),
        "order": lambda: probe_order(trial),
        "sizes": lambda: probe_sizes(trial, figures.flops or 0),
        "autocast": lambda: probe_autocast(trial),
        "bf16 weights": lambda: probe_bf16_weights(trial),
        "state": lambda: probe_state(trial, rebuild),
    }
    findings = []
    with in_mode(trial.module, training=False), torch.no_grad():
        findings += [_find(name, probe) for name, probe in probes.items()]
    return [*findings, _find("gradients", gradients)]


def _find(name: str, probe: Callable[[], str]) -> Finding:
    try:
        text = probe()
    except ValueError as error:
        return Finding(name, "failed", " ".join(str(error).split()))
    except Exception as error:
        return Finding(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Finding(name, "note" if isinstance(text, Note) else "ok", str(text))


def count_flops(trial: Trial) -> int:
    """Forward FLOPs of one picture, products only, as torch counts them."""
    # With gradients: without them the counter fails on a parameter that a module is handed, as timm's pit_ti_224 does.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        features_of(trial.encoder, trial.images[:1], trial.name)
    return int(counter.get_total_flops())


def time_pictures(trial: Trial) -> float:
    """Pictures per second, one at a time; the median of a few."""
    seconds: list[float] = []
    while len(seconds) < TIMED_RUNS and sum(seconds) < TIMED_S:
        started = time.perf_counter()
        features_of(trial.encoder, trial.images[:1], trial.name)
        if trial.images[0].is_cuda:
            torch.cuda.synchronize(trial.images[0].device)
        seconds.append(time.perf_counter() - started)
    return 1 / statistics.median(seconds)


def probe_preparation(trial: Trial) -> str:
    """Whether mean and std are those of values in [0, 1]."""
    spec = trial.encoder.spec
    if max(*spec.mean, *spec.std) > 1 or min(spec.mean) < 0:
        raise ValueError(
            f"{trial.name}.spec has mean {spec.mean} and std {spec.std}; "
            "they are of values in [0, 1]: divide those of values up to 255 by 255"
        )
    # Published ones lie between 0.2 and 1; where it is 0.02, a picture becomes numbers such as 50.
    if min(spec.std) < 0.05:
        raise ValueError(
            f"{trial.name}.spec has std {spec.std}, below 0.05; is it a variance, or was it divided by 255 twice?"
        )
    black, white = (spec.normalise(torch.full((3, 1, 1), value, dtype=torch.uint8)) for value in (0, 255))
    return f"black becomes {black.mean():.2f}, white {white.mean():.2f}"


def probe_order(trial: Trial) -> str:
    """Whether vectors run row by row: a change at the top right must show there, not at the bottom left."""
    rows, columns = trial.grid
    if rows < 2 or columns < 2:
        return Note(f"cannot be told from a grid of {rows} x {columns}")
    half = trial.size_px // 2
    changed = trial.images[0].clone()
    changed[:, :half, -half:] = trial.images[1][:, :half, -half:]
    before = trial.together.split()[0]
    change = (features_of(trial.encoder, [changed], trial.name).vectors - before).float().norm(dim=1)
    place = change.view(rows, columns)
    top_right = float(place[: rows // 2, -(columns // 2) :].mean())
    bottom_left = float(place[-(rows // 2) :, : columns // 2].mean())
    if bottom_left > 2 * top_right:
        raise ValueError(
            f"{trial.name}.encode: a change at the top right of the picture moved the vectors of the bottom left most "
            f"({bottom_left:.2g} against {top_right:.2g}); vectors must run row by row from the top left. Is the map transposed?"
        )
    if top_right < 1.2 * bottom_left:
        return Note("a change at the top right moves all vectors alike; the order cannot be told")
    return "row by row: a change at the top right shows there most"


def probe_sizes(trial: Trial, flops: int) -> str:
    """Which other sizes it takes: half, wide and double, in whole strides."""
    rows, columns = trial.grid
    down, across = trial.size_px // rows, trial.size_px // columns
    wanted = {
        (rows // 2 * down, columns // 2 * across),
        (rows * down, columns * 3 // 2 * across),
        (rows * 2 * down, columns * 2 * across),
    } - {(trial.size_px, trial.size_px)}
    taken, refused = [], []
    for height, width in sorted(size for size in wanted if min(size) > 0):
        try:
            grid = trial.encoder.grid(height, width)
        except ValueError:
            refused.append(f"{height} x {width}")
            continue
        # Attention grows faster than the picture.
        cost = flops * (height * width / trial.size_px**2) ** 1.5
        if cost <= AFFORDABLE_FLOPS:
            _encode_size(trial, height, width, grid)
        taken.append(f"{height} x {width}" + ("" if cost <= AFFORDABLE_FLOPS else " (by grid() alone)"))
    if not taken:
        return Note(f"only {trial.size_px} x {trial.size_px}; it refuses {', '.join(refused)}")
    return f"takes {', '.join(taken)}" + (f"; refuses {', '.join(refused)}" if refused else "")


def _encode_size(trial: Trial, height: int, width: int, grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, height, width, generator=generator).to(trial.images[0])
    features = features_of(trial.encoder, [image, trial.images[0]], trial.name)
    count = (grid[0] * grid[1] + trial.grid[0] * trial.grid[1], trial.encoder.width)
    if features.grids.tolist() != [list(grid), list(trial.grid)] or tuple(features.vectors.shape) != count:
        raise ValueError(
            f"{trial.name}.encode gave grids {features.grids.tolist()} and vectors {tuple(features.vectors.shape)} for "
            f"pictures of {height} x {width} and {trial.size_px} x {trial.size_px}, but grid() says {grid} and {trial.grid}; "
            "let the two agree, or let grid() refuse the size with a ValueError"
        )
    own, before = features.split()[1], trial.together.split()[0]
    if not bool(features.vectors.isfinite().all()) or difference(own, before) > 1e-3:
        raise ValueError(
            f"{trial.name}.encode gave a picture other vectors (or no numbers) beside one of {height} x {width}; "
            "does something that depends on the size stay from one picture to the next?"
        )


def probe_state(trial: Trial, rebuild: Callable[[], nn.Module] | None) -> str:
    """Whether a new encoder with this one's state_dict gives the same vectors, and whether the spec travels."""
    if pickle.loads(pickle.dumps(trial.encoder.spec)) != trial.encoder.spec:
        raise ValueError(f"{trial.name}.spec changes when it is pickled; workers that load pictures get another one")
    fresh = copy.deepcopy(trial.module) if rebuild is None else rebuild()
    if rebuild is None:
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.zero_()
    fresh.to(trial.images[0].device).load_state_dict(trial.module.state_dict())
    with in_mode(fresh, training=False), torch.no_grad():
        vectors = features_of(cast(VisionEncoder, fresh), trial.images[:1], trial.name).vectors
    before = trial.together.split()[0]
    if vectors.shape != before.shape or difference(vectors, before) > 1e-4:
        raise ValueError(
            f"a new {trial.name} with this one's state_dict gives other vectors; "
            "something it needs is no parameter and no buffer, so a checkpoint would lose it: register it"
        )
    return "a new one with this one's state_dict gives the same vectors"
