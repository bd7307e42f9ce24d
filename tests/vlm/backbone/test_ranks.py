"""Several processes: the mean of their losses and gradients is that of one process; a rank without images hangs nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import sys
from dataclasses import replace
import torch
import torch.distributed as dist
from tests.vlm.backbone.kinds import KINDS, backbone_of, gradients, vectors
from vlm.backbone import Documents

rank, store = int(sys.argv[1]), sys.argv[2]
lengths = [[25, 15], [12, 1, 5]]
rows = vectors(58).split([40, 18])
is_image = (torch.arange(58) < 10).split([40, 18])  # the second rank has no pictures
weights = {"ratio": 0.7, "ratio_image": 1.1, "balance": -1.3, "z": 2.1}


def train(backbone, x, lengths, is_image):
    backbone.zero_grad(set_to_none=True)
    out = backbone.train()(x, Documents.from_lengths(lengths), is_image=is_image)
    sum(weights[name] * loss for name, loss in out.losses.items()).backward()
    # Where there is no loss, DDP would sum zeros.
    grads = {name: torch.zeros(()) if g is None else g for name, g in gradients(backbone).items()}
    return out, grads


def backbones():
    # No draw: one process and two would draw different boundaries, each rightly.
    for kind in ("two targets", "gaussian", "wide delta looped", "plain", "dense"):
        config = KINDS[kind]
        chunk = config.chunk and replace(config.chunk, tau=None, sigma=None)
        yield kind, backbone_of(replace(config, chunk=chunk))


together = {kind: train(b, torch.cat(rows), sum(lengths, []), torch.cat(is_image)) for kind, b in backbones()}
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
for kind, backbone in backbones():
    whole, whole_grads = together[kind]
    out, grads = train(backbone, rows[rank], lengths[rank], is_image[rank])
    # What is not differentiated is known to each rank for all of them.
    torch.testing.assert_close(out.expert_load, whole.expert_load, atol=1e-12, rtol=0)
    if out.chunks is not None:
        assert out.chunks.counts == whole.chunks.counts
    # The mean over ranks, which is what DDP makes of gradients, is that of one process with all rows.
    for name in out.losses:
        dist.all_reduce(out.losses[name].detach_())
    torch.testing.assert_close({n: loss / 2 for n, loss in out.losses.items()}, whole.losses, atol=1e-11, rtol=0)
    for name in grads:
        dist.all_reduce(grads[name])
        grads[name] = grads[name] / 2
    torch.testing.assert_close(grads, whole_grads, atol=1e-11, rtol=1e-9, msg=lambda text: f"{kind}: {text}")
    with torch.no_grad():  # evaluation counts the rank's own
        counts = backbone.eval()(rows[rank], Documents.from_lengths(lengths[rank])).chunks
    assert counts is None or sum(tokens for tokens, _ in counts.counts) == len(rows[rank])
dist.destroy_process_group()
"""


@pytest.mark.timeout(120)
def test_two_ranks_have_the_losses_counts_and_gradients_of_one_and_one_of_them_may_lack_images(tmp_path: Path) -> None:
    """[15] The ranks' tokens differ in number; on each rank the loss is its share of the global one, times two."""
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
