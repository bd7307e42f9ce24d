"""Compiled blocks beside plain ones over rows of many packings; writes the graphs of each. Run by test_compile.py.

It runs in a process of its own, as the runtime type check of the tests' import hook breaks torch.compile.
"""

import json
import random
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch._dynamo.backends.debugging import aot_eager

from vlm.backbone import BackboneConfig, ChunkConfig, ConceptMoE, Documents, ExpertsConfig, dispatch

ROWS = 20
CONFIG = BackboneConfig(
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=4, top_k=2, hidden=8),
    chunk=ChunkConfig(compression=2.0),
)
KINDS = {
    "experts": CONFIG,
    "dense": replace(
        CONFIG, experts=ExpertsConfig(num_experts=1, top_k=1, hidden=16), qk_norm="all", attention_bias="qkvo"
    ),
}


def packings() -> list[list[int]]:
    """From 1 to 64 documents of 1 to 40 tokens; among them one of a single token, and one that needs no padding."""
    random.seed(0)
    rows = [[random.choice([1, 7, random.randint(1, 40)]) for _ in range(random.randint(1, 64))] for _ in range(ROWS)]
    rows[2:6] = [[40], [1], [1] * 9, [5] * 64]
    return rows


def train(backbone: ConceptMoE, row: int, documents: Documents, x: torch.Tensor) -> list[torch.Tensor]:
    """Hidden vectors and all gradients."""
    torch.manual_seed(row)  # the draw of the boundaries
    leaf = x.clone().requires_grad_()
    backbone.zero_grad()
    out = backbone(leaf, documents)
    (out.hidden.square().sum() + out.losses["ratio"] + out.losses["balance"]).backward()
    grads = [leaf.grad, *(p.grad for p in backbone.parameters())]
    return [out.hidden.detach(), *(grad for grad in grads if grad is not None)]


def compare(config: BackboneConfig, num_rows: int, recompute: bool = False) -> dict[str, Any]:
    """Train both on the first rows."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return aot_eager(graph, inputs)

    torch.manual_seed(0)
    plain = ConceptMoE(config).double()
    compiled = ConceptMoE(config).double()
    compiled.load_state_dict(plain.state_dict())
    compiled.recompute_blocks = recompute
    compiled.compile_blocks(backend=counting)
    worst = 0.0
    for row, lengths in enumerate(packings()[:num_rows]):
        documents = Documents.from_lengths(lengths)
        x = torch.randn(documents.num_tokens, config.width, dtype=torch.float64)
        mine, theirs = train(compiled, row, documents, x), train(plain, row, documents, x)
        for ours, expected in zip(mine, theirs, strict=True):
            worst = max(worst, ((ours - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item())
    breaks = dict(torch._dynamo.utils.counters["graph_break"])
    return {"graphs": len(graphs), "breaks": breaks, "error": worst}


def main(out: Path) -> None:
    warnings.simplefilter("ignore")
    found = {kind: compare(config, ROWS if kind == "experts" else 6) for kind, config in KINDS.items()}
    found["recomputed"] = compare(CONFIG, 6, recompute=True)
    # What a GPU runs: grouped products. A CPU has them for float32 alone, and they refuse float64.
    dispatch.runs_grouped = lambda *_: True
    dispatch.run_grouped = grouped_in_float32
    found["grouped"] = compare(CONFIG, ROWS)
    out.write_text(json.dumps(found))


plainly_grouped = dispatch.run_grouped


def grouped_in_float32(x: torch.Tensor, weight: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    order, ends, gate_up, down = rest
    return plainly_grouped(x.float(), weight.float(), order, ends, gate_up.float(), down.float()).double()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
