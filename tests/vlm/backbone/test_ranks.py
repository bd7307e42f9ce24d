"""Several processes: counts are of all ranks, gradients stay local, and a rank without images hangs nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import sys, torch
import torch.distributed as dist
from vlm.backbone import BackboneConfig, ChunkConfig, ConceptMoE, Documents, ExpertsConfig, ratio_loss

rank, store = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
config = BackboneConfig(
    width=16, num_heads=2, num_kv_heads=1, head_width=8, encoder_layers=1, concept_layers=1, decoder_layers=1,
    experts=ExpertsConfig(num_experts=4, top_k=2, hidden=16),
    chunk=ChunkConfig(compression=2.0, compression_image=4.0, tau=None),
)
backbone = ConceptMoE(config).double().train()
x = torch.randn(2, 40, 16, dtype=torch.float64)
is_image = torch.stack([torch.zeros(40, dtype=torch.bool), torch.arange(40) < 20])
documents = Documents.from_lengths([25, 15])
alone = [backbone(x[r], documents, is_image=is_image[r]) for r in range(2)]
closes = torch.stack([out.chunks.closes for out in alone])

dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
out = backbone(x[rank], documents, is_image=is_image[rank])
assert torch.equal(torch.tensor(out.chunks.counts), sum(torch.tensor(one.chunks.counts) for one in alone))
torch.testing.assert_close(out.expert_load[0], torch.stack([one.expert_load[0] for one in alone]).mean(0))
share = closes[~is_image].double().mean()
mean_prob = out.chunks.prob[~is_image[rank]].mean()
portion = 2 * (~is_image[rank]).sum() / (~is_image).sum()
expected = 2 * (share * mean_prob + (1 - share) * (1 - mean_prob)) * portion
torch.testing.assert_close(out.losses["ratio"], expected)
out.losses["ratio"].backward()
with torch.no_grad():
    assert backbone.eval()(x[rank], documents, is_image=is_image[rank]).chunks.counts == alone[rank].chunks.counts
dist.destroy_process_group()
"""


@pytest.mark.timeout(120)
def test_two_ranks_share_their_counts_and_one_of_them_may_lack_images(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(rank), str(tmp_path / "store")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=100)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)
