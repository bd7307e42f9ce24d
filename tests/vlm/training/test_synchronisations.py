import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from data.batch import collate
from vlm.training.module import VLMTrainingModule
from vlm.training.watch import Monitor


def load(name: str) -> Any:
    """A script that stands beside this test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


steps, waiting = load("ten_steps"), load("waits")


class Steps(Callback):
    """Watches each step from the arrival of its batch until its weights are changed and its figures added up."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, str, str]]] = []
        self.counter: Any = None

    def on_train_batch_start(self, *_: Any) -> None:
        self.counter = waiting.count_waits()
        self.waits = self.counter.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.counter.__exit__(None, None, None)
        self.seen.append(self.waits.seen)


def train(module: VLMTrainingModule, kind: str, **options: Any) -> list[list[tuple[str, str, str]]]:
    """The waits of each of four training steps, of which the first is logged."""
    spec = module.vlm.encoder.spec
    batches = [collate(steps.rows(step, "text") + steps.rows(step, kind), spec) for step in range(4)]
    watch = Steps()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=4,
        callbacks=[Monitor(), watch],  # the monitor's figures are part of the step
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        log_every_n_steps=100,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        trainer.fit(module, DataLoader(batches, batch_size=None))
    return watch.seen


THE_ONE = ("tolist", "vlm/backbone/chunk.py", "find_boundaries")


@pytest.mark.parametrize("kind", ["text", "picture"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_waits_for_the_device_once(kind: str, recompute: bool) -> None:
    module = steps.model()
    module.vlm.backbone.recompute_blocks = recompute
    for seen in train(module, kind)[1:3]:
        assert seen == [THE_ONE]


@pytest.mark.parametrize(
    ("add", "what"),
    [
        (lambda out: out.hidden.sum().item(), "item"),
        (lambda out: bool(out.hidden.any()), "__bool__"),
        (lambda out: float(out.hidden.sum()), "__float__"),
        (lambda out: out.hidden[out.chunks.closes], "index by a mask"),
        (lambda out: out.chunks.closes.nonzero(), "nonzero"),
        (lambda out: torch.where(out.chunks.closes), "nonzero"),
        (lambda out: torch.tensor([1.0], device=out.hidden.device), "tensor of host values on a device"),
    ],
)
def test_a_wait_that_somebody_adds_is_found(monkeypatch: pytest.MonkeyPatch, add: Any, what: str) -> None:
    module, loss = steps.model(), VLMTrainingModule.auxiliary_loss
    monkeypatch.setattr(VLMTrainingModule, "auxiliary_loss", lambda self, out: (add(out), loss(self, out))[1])
    second = train(module, "text")[1]
    assert [found[0] for found in second] == ["tolist", what]


@pytest.mark.gpu
def test_a_training_step_on_a_gpu_waits_once() -> None:
    module, device = steps.model().cuda(), torch.device("cuda")
    spec = module.vlm.encoder.spec
    batch = collate(steps.rows(0, "text") + steps.rows(0, "picture"), spec).pin_memory().to(device, non_blocking=True)
    module.train()
    for _ in range(3):  # the first turns look for kernels
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with torch.autocast("cuda", torch.bfloat16):
                    loss = module.training_step(batch, 0)["loss"]
                loss.backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = [one for one in found if "synchroniz" in str(one.message)]
    assert len(waits) <= 1, [f"{one.filename}:{one.lineno}" for one in waits]
