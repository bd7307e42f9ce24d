import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm.backbone import BackboneConfig, ConceptMoE, Documents, ExpertsConfig

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script says of each kind of block, over up to 20 rows of 1 to 64 documents."""
    out = tmp_path_factory.mktemp("compile") / "found.json"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).with_name("compile_rows.py")
    done = subprocess.run([sys.executable, str(script), str(out)], env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experts", "dense", "recomputed", "grouped"])
def test_a_compiled_block_has_three_graphs_at_most_and_none_is_broken(found: dict[str, Any], kind: str) -> None:
    """Four blocks, of two kinds: those of the token encoder and the concept layers share their graphs."""
    assert found[kind]["breaks"] == {}
    assert 1 <= found[kind]["graphs"] <= 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("experts", 1e-9), ("dense", 1e-9), ("recomputed", 1e-9), ("grouped", 1e-4)],
)
def test_compiled_blocks_give_the_values_and_gradients_of_plain_ones(
    found: dict[str, Any], kind: str, tolerance: float
) -> None:
    """Grouped products run in float32 here."""
    assert found[kind]["error"] < tolerance


def small() -> ConceptMoE:
    experts = ExpertsConfig(num_experts=2, top_k=1, hidden=8)
    sizes = {"width": 8, "num_heads": 1, "num_kv_heads": 1, "head_width": 8}
    layers = {"encoder_layers": 1, "concept_layers": 0, "decoder_layers": 0}
    return ConceptMoE(BackboneConfig(**sizes, **layers, experts=experts, chunk=None))


def test_a_missing_compiler_is_named_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="'no-such-compiler' was not found; install g\\+\\+"):
        small().compile_blocks()


def test_a_copy_of_a_compiled_backbone_computes_with_its_own_weights() -> None:
    backbone = small()
    calls: list[Any] = []
    backbone.encoder[0]._compiled = lambda block, *rest: (calls.append(block), type(block)._transform(block, *rest))[1]
    twin = copy.deepcopy(backbone)
    twin(torch.randn(3, 8), Documents.from_lengths([3]))
    assert calls == [twin.encoder[0]]


def test_a_cache_runs_blocks_as_they_are_written() -> None:
    backbone = small().eval()
    backbone.encoder[0]._compiled = lambda *_: pytest.fail("compiled")
    backbone.prefill(torch.randn(3, 8), Documents.from_lengths([3]), backbone.new_cache(1, 4))
