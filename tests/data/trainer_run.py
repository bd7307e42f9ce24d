"""Lightning's Trainer on a DataModule: once through, and once stopped and gone on from its checkpoint; on any number of processes."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from data.batch import Batch
from data.module import DataModule


class Recorder(LightningModule):
    """A model that only remembers what it was shown."""

    def __init__(self, asks_for_steps: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, ...]] = []
        self._asks_for_steps = asks_for_steps

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.seen.append(batch.sample_ids)
        return self.weight.sum()

    def validation_step(self, batch: Batch) -> None:
        batch.check()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self._asks_for_steps:
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path,
    data: DataModule,
    steps: int,
    resume: Path | None = None,
    asks_for_steps: bool = False,
    every: int = 1000,
    **trainer: Any,
) -> list[tuple[str, ...]]:
    """The documents of every batch that this process was shown."""
    model, save = Recorder(asks_for_steps), ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=every)
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "callbacks": [save]}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    runner = Trainer(max_steps=steps, default_root_dir=folder, **(settings | trainer))
    runner.fit(model, data, ckpt_path=resume, weights_only=True if resume else None)
    return model.seen


def main(out: Path, tokenizer: str, train: str, **settings: Any) -> None:
    def data(num_workers: int) -> DataModule:
        return DataModule(
            tokenizer,
            None,
            [train],
            val=[train],
            row_tokens=100,
            num_workers=num_workers,
            lanes=4,
            steps_per_epoch=8,
            max_faulty=0.1,
        )

    fitting = {"strategy": "ddp", "devices": int(os.environ["WORLD_SIZE"]), **settings}
    rank = os.environ["RANK"]
    whole = fit(out / "whole", data(0), 15, **fitting)
    fit(out / "halves", data(2), 11, every=5, **fitting)
    [checkpoint] = (out / "halves").glob("*step=5.ckpt")
    resumed = fit(out / "halves", data(1), 15, checkpoint, **fitting)
    (out / f"seen-{rank}.json").write_text(json.dumps({"whole": whole, "resumed": resumed}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asked = json.loads(sys.argv[1])
    main(Path(asked.pop("out")), **asked)
