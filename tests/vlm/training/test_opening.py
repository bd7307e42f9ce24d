"""`model.open_steps`: a converted model begins at its source's loss, and the chunker takes over step by step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from tests.vlm.training.test_accumulation import text
from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.convert.to_conceptmoe import convert_model
from vlm.model import ModelConfig, VisionLanguageModel
from vlm.training.module import VLMTrainingModule
from vlm.training.optim import OptimizerConfig

pytestmark = pytest.mark.long

PLAIN = BackboneConfig(
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_width=8,
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=8, top_k=2, hidden=8),
    chunk=None,
    init_std=0.2,
)


class Watched(VLMTrainingModule):
    """Keeps each step's share and loss."""

    seen: list[tuple[float, float]]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step = super().training_step(batch, batch_idx)
        self.seen = [*getattr(self, "seen", []), (self.share, step["cross_entropy"].item())]
        return step

    @property
    def share(self) -> float:
        chunker = self.vlm.backbone.chunker
        return 0.0 if chunker is None else chunker.open_share


def train(folder: Path, steps: int, open_steps: int, batches: int = 1) -> list[tuple[float, float]]:
    config = VisionLanguageModel.from_pretrained(folder).config
    module = Watched(config, OptimizerConfig(lr=1e-3, warmup_steps=0), start=str(folder), open_steps=open_steps)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=batches,
    )  # fmt: skip
    rows = [text((30, 12, 7), 20, seed=seed) for seed in range(steps * batches)]
    trainer.fit(module, DataLoader(rows, batch_size=None))
    return module.seen


@pytest.mark.filterwarnings("ignore")  # Lightning's advice; the test is about numbers
def test_training_begins_at_the_source_s_loss_and_ends_with_the_chunker_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(tokenizer="demo", encoder=None, connector=ConnectorConfig(), backbone=PLAIN)
    VisionLanguageModel(config).save_pretrained(tmp_path / "plain")
    convert_model(tmp_path / "plain", tmp_path / "concept", compression=1.5, top_k=2)
    source = train(tmp_path / "plain", 1, 0)
    opened = train(tmp_path / "concept", 6, 4)
    shut = train(tmp_path / "concept", 1, 0)
    assert [share for share, _ in opened] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert opened[0][1] == pytest.approx(source[0][1], rel=1e-5)
    assert shut[0][0] == 0.0
    assert shut[0][1] != pytest.approx(source[0][1], rel=1e-5)
    # Steps are the optimizer's: every batch of a step has its share.
    assert [share for share, _ in train(tmp_path / "concept", 2, 2, batches=2)] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("chunk", "steps", "told"),
    [(None, 10, "got 10 for a model without a chunker"), (ChunkConfig(compression=1.5), -1, "got -1")],
)
def test_steps_that_cannot_be_are_refused(chunk: ChunkConfig | None, steps: int, told: str) -> None:
    from dataclasses import replace

    config = ModelConfig(
        tokenizer="demo", encoder=None, connector=ConnectorConfig(), backbone=replace(PLAIN, chunk=chunk)
    )
    with pytest.raises(ValueError, match=told):
        VLMTrainingModule(config, OptimizerConfig(), open_steps=steps)
