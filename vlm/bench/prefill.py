"""`vlm bench prefill`: how long prompts take until their first token can be chosen, the filled cache included.

All models run whole prompts into a new cache and give logits of each prompt's last token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vlm.backbone import Documents
from vlm.bench import peer as transformers
from vlm.bench.boundaries import Pattern
from vlm.bench.lineup import Lineup
from vlm.bench.models import BASELINE, VOCABULARY, Ours
from vlm.bench.predict import prefill_flops
from vlm.bench.timing import interleave

TRIAL_TOKENS = 1024  # on which transformers' way to run experts is chosen


@dataclass(frozen=True, kw_only=True)
class PrefillTime:
    """One model's prefill of prompts of one length."""

    model: str
    batch: int
    length: int  # tokens of a prompt
    seconds: float  # median of the rounds
    spread: float  # (greatest - least) / median
    tokens_per_s: float
    speed: float  # times as fast as the plain MoE
    predicted: float  # the same, by FLOPs
    compression: float | None  # tokens per concept; None without concepts


@torch.no_grad()
def measure_prefill(
    lineup: Lineup,
    pattern: Pattern,
    *,
    batch: int = 1,
    length: int = 1024,
    rounds: int = 7,
    progress: Callable[[int, int], None] | None = None,
) -> list[PrefillTime]:
    """Time every model of the lineup in interleaved rounds.

    What does not fit a GPU's memory is left out, and noted; without the plain MoE nothing is left to compare.
    """
    device = lineup.device
    ids = torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)
    documents = Documents.from_lengths([length] * batch, device)
    closes = pattern.rows(batch, 0, length).flatten().to(device)
    concepts: dict[str, int] = {}

    def run(name: str, model: Ours) -> None:
        cache = model.backbone.new_cache(batch, length)
        model.prefill(ids.flatten(), documents, cache, closes)
        concepts[name] = sum(cache.num_concepts)

    runs: dict[str, Callable[[], object]] = {}
    for name, model in lineup.ours.items():
        runs[name] = lambda name=name, model=model: run(name, model)  # type: ignore[misc]
    if lineup.peer is not None:
        peer, short = lineup.peer, ids[:1, :TRIAL_TOKENS]
        choice = transformers.choose_experts(
            peer, transformers.PREFILL_EXPERTS, lambda: transformers.prefill(peer, short), device
        )
        lineup.notes.append(
            f"transformers, prefill of {batch} x {length:,}: {choice}, chosen on {short.shape[1]:,} tokens"
        )
        runs[transformers.DYNAMIC] = lambda: transformers.prefill(peer, ids)
    if device.type == "cuda":
        runs = _fitting(runs, lineup, f"prefill of {batch} x {length:,}")
        if BASELINE not in runs:
            return []
    times = interleave(runs, rounds=rounds, device=device, progress=progress)
    found = []
    work = prefill_flops(lineup.plain, batch, length, None)
    for name, time in times.items():
        config = lineup.configs.get(name, lineup.plain)
        compression = None if config.chunk is None else batch * length / concepts[name]
        found.append(
            PrefillTime(
                model=name,
                batch=batch,
                length=length,
                seconds=time.median,
                spread=time.spread,
                tokens_per_s=batch * length / time.median,
                speed=times[BASELINE].over(time),
                predicted=work / prefill_flops(config, batch, length, compression),
                compression=compression,
            )
        )
    return found


def _fitting(runs: dict[str, Callable[[], object]], lineup: Lineup, what: str) -> dict[str, Callable[[], object]]:
    """Those that the GPU has memory for."""
    fits = {}
    for name, run in runs.items():
        try:
            run()
        except torch.OutOfMemoryError:
            lineup.notes.append(f"{what}: {name} left out: it does not fit the GPU's memory")
            torch.cuda.empty_cache()
        else:
            fits[name] = run
    return fits
