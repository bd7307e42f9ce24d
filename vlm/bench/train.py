"""`vlm bench train`: a training step of the plain MoE, of the ConceptMoEs matched to it, and of transformers' MoE.

A step is forward and backward of one packed row, without the optimizer. Beside the models runs the limit: nothing but the
plain model's dense products and attention, which is what the machine could do if all else were free.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vlm.backbone import BackboneConfig
from vlm.backbone.cost import count_parameters, flops_per_token
from vlm.bench.memory import peak_mib
from vlm.bench.models import BASELINE, PLAIN, VOCABULARY, Ours, Peer, Row, builders, variants
from vlm.bench.timing import interleave

LIMIT = "products alone"


@dataclass(frozen=True, kw_only=True)
class TrainTime:
    """One model's training step."""

    model: str
    parameters: int
    activated: int  # that one token passes through
    seconds: float  # median of the rounds
    spread: float  # (greatest - least) / median
    tokens_per_s: float
    speed: float  # times as fast as the plain MoE
    gemm_share: float  # of the FLOP/s that products alone reach here
    peak_mib: float | None  # memory above the weights; None where it was not measured


def products(config: BackboneConfig, num_tokens: int) -> Counter[tuple[int, int, int]]:
    """Dense products (rows, in, out) of one forward pass of a plain model with its head, and how many of each."""
    heads, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    experts = config.experts
    found: Counter[tuple[int, int, int]] = Counter()
    for _ in range(config.num_layers):
        found[num_tokens, config.width, heads] += 1
        found[num_tokens, config.width, keys] += 2
        found[num_tokens, heads, config.width] += 1
        found[num_tokens * experts.top_k, config.width, 2 * experts.hidden] += 1
        found[num_tokens * experts.top_k, experts.hidden, config.width] += 1
    found[num_tokens, config.width, VOCABULARY] += 1
    return found


def limit_step(config: BackboneConfig, row: Row, dtype: torch.dtype) -> Callable[[], None]:
    """All products and attention of a training step of the plain model, and nothing else."""
    device = row.ids.device
    operands = [
        (torch.randn(n, a, device=device, dtype=dtype), torch.randn(b, a, device=device, dtype=dtype), count)
        for (n, a, b), count in products(config, len(row.ids)).items()
    ]
    outs = [x @ w.T for x, w, _ in operands]
    shape = row.documents.num_documents, config.num_heads, row.documents.longest, config.head_width
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))

    def run() -> None:
        with torch.no_grad():
            for (x, w, count), grad in zip(operands, outs, strict=True):
                for _ in range(count):
                    torch.mm(x, w.T)
                    torch.mm(grad, w)
                    torch.mm(grad.T, x)
        for _ in range(config.num_layers):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            torch.autograd.grad(out.sum(), (q, k, v))

    return run


def step_flops(config: BackboneConfig, row: Row) -> float:
    """FLOPs of forward and backward: three times the forward's."""
    context = (row.documents.longest + 1) / 2
    return 3 * len(row.ids) * (flops_per_token(config, context) + 2 * config.width * VOCABULARY)


def train_step(model: nn.Module, row: Row, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward; the gradients are dropped."""
    device_type = row.ids.device.type

    def run() -> None:
        with torch.autocast(device_type, dtype, enabled=dtype != torch.float32):
            loss = model.loss(row)  # type: ignore[operator]
        loss.backward()
        model.zero_grad()

    return run


def measure_training(
    *,
    num_documents: int = 2,
    length: int = 1024,
    compression: float = 2.0,
    rounds: int = 7,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    with_peer: bool = True,
    with_memory: bool = True,
    compiled: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[TrainTime]:
    """Time every model in interleaved rounds; memory in a process of its own for each (CPU), or by the allocator (CUDA).

    Args:
        compiled: our blocks, and transformers' model, run through `torch.compile`.
    """
    row = Row.random(num_documents, length, device)
    configs = variants(compression)
    models: dict[str, Any] = {}
    for name, build in builders(compression, with_peer).items():
        torch.manual_seed(0)
        model = models[name] = build().to(device).train()
        if isinstance(model, Peer):
            model.take_weights(models[BASELINE])
        if compiled and isinstance(model, Ours):
            model.backbone.compile_blocks()
        elif compiled:
            model.compile()
    runs = {name: train_step(model, row, dtype) for name, model in models.items()}
    times = interleave({LIMIT: limit_step(PLAIN, row, dtype), **runs}, rounds=rounds, device=device, progress=progress)
    rate = step_flops(PLAIN, row) / times[LIMIT].median
    results = []
    for name, model in models.items():
        config, time = configs.get(name, PLAIN), times[name]
        # transformers' model has the plain one's sizes, but its experts are not ours to count.
        counted = count_parameters(model if isinstance(model, Ours) else Ours(config))
        results.append(
            TrainTime(
                model=name,
                parameters=counted.total,
                activated=counted.activated,
                seconds=time.median,
                spread=time.spread,
                tokens_per_s=len(row.ids) / time.median,
                speed=times["plain MoE"].over(time),
                gemm_share=step_flops(config, row) / rate / time.median,
                peak_mib=_peak(name, model, row, dtype, compression) if with_memory else None,
            )
        )
    return results


def _peak(name: str, model: nn.Module, row: Row, dtype: torch.dtype, compression: float) -> float:
    if row.ids.device.type != "cuda":
        return peak_mib(name, row.documents.num_documents, row.documents.longest, compression)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train_step(model, row, dtype)()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
