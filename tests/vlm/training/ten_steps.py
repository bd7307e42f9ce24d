"""Ten training steps over fixed rows, on one process or several; writes the losses. Run by test_ddp.py, also under torchrun.

Each step has rows of text alone and rows with pictures, of very different size. One process gets all of them in one batch; of two processes
the first gets the text and the second the pictures.
"""

import io
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from data.batch import Batch, collate
from data.text import Picture, Row
from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig
from vlm.training.lora import LoraSettings
from vlm.training.module import VLMTrainingModule
from vlm.training.optim import OptimizerConfig
from vlm.training.parallel import all_sum

STEPS = 10
SLOTS = 4


def model(**settings: Any) -> VLMTrainingModule:
    torch.manual_seed(0)
    backbone = BackboneConfig(
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=4, top_k=2, hidden=8, balance_weight=0.1, z_weight=0.01),
        # No draw: one process and two would draw different boundaries, each rightly.
        chunk=ChunkConfig(compression=2.0, tau=None, ratio_share="threshold"),
        init_std=0.2,
    )
    encoder = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 16, "width": 12}
    config = ModelConfig(tokenizer="demo", encoder=encoder, connector=ConnectorConfig(), backbone=backbone)
    return VLMTrainingModule(config, OptimizerConfig(lr=1e-2, warmup_steps=0), **settings)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def row(seed: int, num_text: int, picture: bool) -> Row:
    random = np.random.default_rng(seed)
    slots = SLOTS if picture else 0
    n = slots + num_text
    is_image = np.arange(n) < slots
    return Row(
        ids=random.integers(10, 60, n),
        loss=~is_image & (random.random(n) < 0.7),
        is_image=is_image,
        positions=np.repeat(np.arange(n)[:, None], 3, axis=1),
        pictures=(Picture(png(seed), f"picture-{seed}", 0, (SLOTS,)),) if picture else (),
        sample_id=str(seed),
    )


def rows(step: int, kind: str) -> list[Row]:
    """Few rows of text, many with pictures: the ranks' token counts differ several times over."""
    if kind == "text":
        return [row(1000 * step + i, 5 + i, picture=False) for i in range(3)]
    return [row(1000 * step + 100 + i, 4 + 2 * i, picture=True) for i in range(7)]


class Losses(Callback):
    """The mean loss over all ranks' answered tokens, each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        sums = torch.stack([outputs["cross_entropy"].double(), torch.tensor(float(batch.num_answered)).double()])
        total, count = all_sum(sums).tolist()
        self.losses.append(total / count)


class FirstMoves(Callback):
    """After how many steps each weight was first another than at the start."""

    def __init__(self, begun: dict[str, Tensor]) -> None:
        self.begun = begun
        self.steps: dict[str, int] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        for name, value in pl_module.vlm.state_dict().items():
            if name not in self.steps and not torch.equal(value, self.begun[name]):
                self.steps[name] = trainer.global_step


def main(out: Path, settings: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")  # Lightning's advice on workers; the test is about numbers
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if "lora" in settings:
        settings["lora"] = LoraSettings(**settings["lora"])
    module = model(**settings)
    begun = {name: value.clone() for name, value in module.vlm.state_dict().items()}
    kinds = ["text", "picture"] if world == 1 else [["text"], ["picture"]][rank]
    spec = module.vlm.encoder.spec
    batches = [collate([r for kind in kinds for r in rows(step, kind)], spec) for step in range(STEPS)]
    losses, moved = Losses(), FirstMoves(begun)
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=STEPS,
        callbacks=[losses, moved],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    if rank == 0:
        weights = {name: value.double().norm().item() for name, value in module.vlm.state_dict().items()}
        out.write_text(json.dumps({"losses": losses.losses, "weights": weights, "moved": moved.steps}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
