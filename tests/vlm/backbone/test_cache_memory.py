"""What generation takes is what the cost model says, within a tenth: by the cache's own count, and by the system's."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlm.backbone import BackboneConfig, ChunkConfig, ConceptConfig, ConceptMoE, Documents, ExpertsConfig, LoopConfig
from vlm.backbone.cost import kv_bytes_per_token

pytestmark = pytest.mark.long

CONFIG = BackboneConfig(
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    encoder_layers=1,
    concept_layers=4,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=2, top_k=1, hidden=8),
    chunk=ChunkConfig(compression=2.0),
    init_std=0.2,
)
CONFIGS = {
    "sum": CONFIG,
    "looped": replace(CONFIG, concept=ConceptConfig(loop=LoopConfig(first=1, layers=2, passes=3))),
    "wide": replace(CONFIG, concept=ConceptConfig(width=48, num_heads=6, num_kv_heads=6)),
    "plain": replace(CONFIG, chunk=None),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("num_tokens", [1500, 4000])
def test_a_cache_takes_what_the_cost_model_says(kind: str, num_tokens: int) -> None:
    torch.manual_seed(0)
    config = CONFIGS[kind]
    backbone = ConceptMoE(config).eval()
    cache = backbone.new_cache(3, 5000)
    x, documents = torch.randn(3 * num_tokens, 32), Documents.from_lengths([num_tokens] * 3)
    backbone.prefill(x, documents, cache)
    for _ in range(20):
        backbone.step(torch.randn(3, 32), cache)
    tokens, concepts = sum(cache.num_tokens), sum(cache.num_concepts)
    measured = None if config.chunk is None else tokens / concepts
    assert cache.nbytes == pytest.approx(tokens * kv_bytes_per_token(config, 4, measured), rel=0.1)


# Large enough that what the libraries take by the way is small beside it: 129 MiB of weights, 144 MiB of keys and values.
IN_A_PROCESS = """
import torch
from pathlib import Path
from vlm.backbone import BackboneConfig, ChunkConfig, ConceptMoE, Documents, ExpertsConfig
from vlm.backbone.cost import kv_bytes_per_token

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

def make(num_experts, layers, width=256):
    experts = ExpertsConfig(num_experts=num_experts, top_k=1, hidden=512)
    return BackboneConfig(
        width=width, num_heads=8, num_kv_heads=8, head_width=32, encoder_layers=1, concept_layers=layers, decoder_layers=1,
        experts=experts, chunk=ChunkConfig(compression=2.0),
    )

def answer(config, lengths):
    backbone = ConceptMoE(config).eval()
    cache = backbone.new_cache(len(lengths), 4096)
    for place, length in enumerate(lengths):  # one by one: what a prefill works with stays small
        for first in range(0, length, 256):
            part = Documents.from_lengths([256])
            backbone.prefill(torch.randn(256, config.width), part, cache, sequences=[place])
    for _ in range(8):
        backbone.step(torch.randn(len(lengths), config.width), cache)
    return backbone, cache

torch.set_num_threads(1)
torch.manual_seed(0)
with torch.inference_mode():
    answer(make(2, 1, 64), [256, 256])  # what the libraries load at their first calls
    before = resident()
    config = make(8, 8)
    backbone, cache = answer(config, [4096 - 256] * 6)
    took = resident() - before
    weights = sum(p.nbytes for p in backbone.parameters())
    tokens, concepts = sum(cache.num_tokens), sum(cache.num_concepts)
    print(took / (weights + tokens * kv_bytes_per_token(config, 4, tokens / concepts)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_generation_takes_what_the_system_counts() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < 1.1
