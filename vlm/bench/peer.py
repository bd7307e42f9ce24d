"""transformers' model at inference: its two caches, and the fastest of its ways to run experts.

DynamicCache grows by a copy of everything at each token. StaticCache has its final size from the start, and attention
reads all of it under a mask.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm.bench.models import PEER, Peer

DYNAMIC, STATIC = f"{PEER}, DynamicCache", f"{PEER}, StaticCache"
# batched_mm copies the weights of each token's experts, which for a prompt would take gigabytes.
PREFILL_EXPERTS, DECODE_EXPERTS = ("grouped_mm", "eager"), ("grouped_mm", "eager", "batched_mm")


def prefill(model: Peer, ids: Int[Tensor, "s length"]) -> tuple[Float[Tensor, "s v"], Any]:
    """Logits of the last tokens alone, and the filled DynamicCache."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.model.config)
    out = model.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1], cache


def step(model: Peer, ids: Int[Tensor, " s"], cache: Any) -> Float[Tensor, "s v"]:
    """One token for each sequence."""
    logits: Tensor = model.model(input_ids=ids[:, None], past_key_values=cache, use_cache=True).logits
    return logits[:, -1]


def copied(model: Peer, cache: Any, batch: int, max_tokens: int | None = None) -> Any:
    """A cache of `batch` sequences that all hold what the one of `cache` does.

    Args:
        max_tokens: the size of a StaticCache; None makes a DynamicCache.
    """
    from transformers import DynamicCache, StaticCache

    config = model.model.config
    new: Any = DynamicCache(config=config) if max_tokens is None else StaticCache(config, max_cache_len=max_tokens)
    for index, layer in enumerate(cache.layers):
        new.update(layer.keys.repeat_interleave(batch, 0), layer.values.repeat_interleave(batch, 0), index)
    return new


def reserved_bytes(cache: Any) -> int:
    """Bytes of its keys and values."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def choose_experts(model: Peer, names: Sequence[str], trial: Callable[[], object], device: torch.device) -> str:
    """Set the fastest implementation of experts, and tell what each took.

    Args:
        trial: what is run, once unmeasured and three times measured; the least counts.
    """
    took: dict[str, float] = {}
    for name in names:
        model.model.set_experts_implementation(name)
        trial()
        took[name] = min(_seconds(trial, device) for _ in range(3))
    best = min(took, key=lambda name: took[name])
    model.model.set_experts_implementation(best)
    return f"experts by {best} ({', '.join(f'{name} {1e3 * seconds:,.1f} ms' for name, seconds in took.items())})"


def _seconds(trial: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    trial()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began
