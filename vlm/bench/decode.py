"""`vlm bench decode`: how long one more token takes, when sequences have so many already.

A step is the embedding, the backbone, the head, the likeliest token, and its way to the host, which has to look for ends.
Prompts are really prefilled, once for each model and length, and copied for batches: random keys would do for the same
work, but only the real ones leave a cache in the state in which decoding finds it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from vlm.backbone import BackboneConfig, Documents
from vlm.backbone.cache import Cache
from vlm.backbone.cost import kv_bytes_per_token
from vlm.bench import peer as transformers
from vlm.bench.boundaries import Pattern
from vlm.bench.lineup import Lineup, available_bytes
from vlm.bench.models import BASELINE, VOCABULARY, Ours, Peer
from vlm.bench.predict import step_bytes
from vlm.bench.timing import interleave

# A step's own memory, and the copy that DynamicCache makes of a layer, beside the caches themselves.
HEADROOM = 1.15
Advance = Callable[[Tensor, int], Tensor]  # the last tokens, the number of the step -> logits


@dataclass(frozen=True, kw_only=True)
class DecodeTime:
    """One model's steps at one batch and length."""

    model: str
    batch: int
    length: int  # tokens that each sequence holds, in the middle of the measured steps
    seconds: float  # of a step: median of the rounds' means
    spread: float  # (greatest - least) / median of the rounds
    p95_s: float  # of single steps: one in twenty takes longer
    tokens_per_s: float
    speed: float  # times as fast as the plain MoE
    predicted: float  # the same, by bytes read
    kv_bytes: float  # reserved by the cache, for each token that it holds at the end
    kv_bytes_predicted: float
    compression: float | None  # tokens per concept in the steps; None without concepts


class Turns:
    """A model that goes on by some steps at each call; the time of every step is kept.

    What it says is fetched, but what it reads next is random: sequences with one prompt would else say the same, and a batch
    of them would choose the experts of one.
    """

    def __init__(self, advance: Advance, batch: int, steps: int, device: torch.device) -> None:
        self._advance, self.steps, self._device = advance, steps, device
        self._random = torch.Generator().manual_seed(0)
        self._batch = batch
        self.seconds: list[float] = []

    def __call__(self) -> None:
        clock = time.perf_counter if self._device.type == "cuda" else time.process_time
        for _ in range(self.steps):
            ids = torch.randint(VOCABULARY, (self._batch,), generator=self._random).to(self._device)
            began = clock()
            self._advance(ids, len(self.seconds)).argmax(-1).tolist()
            self.seconds.append(clock() - began)


@torch.no_grad()
def measure_decode(
    lineup: Lineup,
    pattern: Pattern,
    *,
    length: int = 1024,
    batches: Sequence[int] = (1,),
    steps: int = 16,
    rounds: int = 7,
    progress: Callable[[int, int], None] | None = None,
) -> list[DecodeTime]:
    """Time every model of the lineup at each batch, in interleaved rounds of some steps.

    Sequences go on through all rounds, the unmeasured first one too, so that the length is reached in the middle of the
    measured steps. A batch whose caches exceed the available memory is left out, and noted.
    """
    prompt, total = prompt_tokens(length, steps, rounds), (rounds + 1) * steps
    fitting = [batch for batch in batches if _fits(lineup, batch, prompt + total, pattern.compression, length)]
    if not fitting:
        return []
    filled = {name: _prefilled(model, pattern, prompt, total) for name, model in lineup.ours.items()}
    peer_filled = None if lineup.peer is None else transformers.prefill(lineup.peer, _prompt(prompt, lineup.device))[1]
    found: list[DecodeTime] = []
    for batch in fitting:
        closes = pattern.rows(batch, prompt, total)
        caches: dict[str, Any] = {}
        turns: dict[str, Turns] = {}
        for name, model in lineup.ours.items():
            cache = caches[name] = filled[name].clone()
            cache.select([0] * batch)
            turns[name] = Turns(_ours(model, cache, closes.T.to(lineup.device)), batch, steps, lineup.device)
        if lineup.peer is not None:
            lineup.notes.append(_choose_experts(lineup, lineup.peer, peer_filled, batch, length))
            for name, size in ((transformers.DYNAMIC, None), (transformers.STATIC, prompt + total)):
                cache = caches[name] = transformers.copied(lineup.peer, peer_filled, batch, size)
                turns[name] = Turns(_theirs(lineup.peer, cache), batch, steps, lineup.device)
        times = interleave(turns, rounds=rounds, device=lineup.device, progress=progress)
        work = predict_bytes(lineup.plain, batch, length, None, lineup.dtype)
        for name, timing in times.items():
            config, cache = lineup.configs.get(name, lineup.plain), caches[name]
            chunked = config.chunk is not None
            single = torch.tensor(turns[name].seconds[steps:], dtype=torch.float64)
            held = batch * (prompt + total)
            found.append(
                DecodeTime(
                    model=name,
                    batch=batch,
                    length=length,
                    seconds=timing.median / steps,
                    spread=timing.spread,
                    p95_s=single.quantile(0.95).item(),
                    tokens_per_s=batch * steps / timing.median,
                    speed=times[BASELINE].over(timing),
                    predicted=work / predict_bytes(config, batch, length, closes[:, steps:], lineup.dtype),
                    kv_bytes=(cache.nbytes if name in lineup.ours else transformers.reserved_bytes(cache)) / held,
                    kv_bytes_predicted=kv_bytes_per_token(
                        config, lineup.dtype.itemsize, held / sum(cache.num_concepts) if chunked else None
                    ),
                    compression=_compression(cache, filled[name], batch, total) if chunked else None,
                )
            )
    return found


def prompt_tokens(length: int, steps: int, rounds: int) -> int:
    """Tokens of the prompt with which the measured steps, after an unmeasured round, lie around `length`.

    Raises:
        ValueError: nothing is left for the prompt.
    """
    prompt = length - steps - rounds * steps // 2
    if prompt < 1:
        raise ValueError(
            f"a length of {length} leaves no prompt before {rounds + 1} rounds of {steps} steps; "
            f"give at least {length + 1 - prompt}, or fewer --rounds or --steps"
        )
    return prompt


def predict_bytes(
    config: BackboneConfig, batch: int, length: int, closes: Bool[Tensor, "s steps"] | None, dtype: torch.dtype
) -> float:
    """Bytes that a step reads on average, over steps in which the sequences close as `closes` says."""
    if config.chunk is None or closes is None:
        return step_bytes(config, batch, length, 0, None, dtype.itemsize)
    compression = closes.numel() / max(1, int(closes.sum()))
    closing = closes.sum(0).tolist()
    return sum(step_bytes(config, batch, length, one, compression, dtype.itemsize) for one in closing) / len(closing)


def _prompt(length: int, device: torch.device) -> Tensor:
    return torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0)).to(device)


def _prefilled(model: Ours, pattern: Pattern, length: int, more: int) -> Cache:
    """A cache of one sequence of `length` tokens, with room for `more`."""
    ids = _prompt(length, model.head.weight.device)[0]
    cache = model.backbone.new_cache(1, length + more)
    closes = pattern.rows(1, 0, length)[0].to(ids.device)
    model.prefill(ids, Documents.from_lengths([length], ids.device), cache, closes)
    return cache


def _ours(model: Ours, cache: Cache, closes: Bool[Tensor, "steps s"]) -> Advance:
    return lambda ids, step: model.step(ids, cache, closes[step])


def _theirs(model: Peer, cache: Any) -> Advance:
    return lambda ids, step: transformers.step(model, ids, cache)


def _choose_experts(lineup: Lineup, model: Peer, filled: Any, batch: int, length: int) -> str:
    cache = transformers.copied(model, filled, batch)
    ids = torch.zeros(batch, dtype=torch.long, device=lineup.device)
    choice = transformers.choose_experts(
        model, transformers.DECODE_EXPERTS, lambda: transformers.step(model, ids, cache), lineup.device
    )
    return f"transformers, decode of {batch} x {length:,}: {choice} for a step"


def _compression(cache: Cache, before: Cache, batch: int, total: int) -> float:
    """Tokens per concept of the steps."""
    return batch * total / max(1, sum(cache.num_concepts) - batch * before.num_concepts[0])


def _fits(lineup: Lineup, batch: int, size: int, compression: float, length: int) -> bool:
    """Whether the caches of all models fit the memory at once; notes it where they do not."""
    ours = [
        kv_bytes_per_token(config, lineup.dtype.itemsize, None if config.chunk is None else compression)
        for config in lineup.configs.values()
    ]
    theirs = [kv_bytes_per_token(lineup.plain, lineup.dtype.itemsize)] * (0 if lineup.peer is None else 2)
    # Beside the batch's caches stand the prefilled ones, of one sequence each.
    needed = HEADROOM * (batch * size * sum(ours + theirs) + size * sum(ours + theirs[:1]))
    free = available_bytes(lineup.device)
    if free is None or needed <= free:
        return True
    lineup.notes.append(
        f"decode of {batch} x {length:,} left out: the caches of all models need {needed / 2**30:.1f} GiB "
        f"and {free / 2**30:.1f} GiB are free; name fewer with --models"
    )
    return False
