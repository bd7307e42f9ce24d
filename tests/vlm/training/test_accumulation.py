import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from data.batch import Batch
from vlm.backbone import BackboneConfig, ChunkConfig, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig
from vlm.training.module import VLMTrainingModule
from vlm.training.optim import OptimizerConfig

IGNORED = -100


class Recorder(VLMTrainingModule):
    """Keeps the gradients as the optimizer gets them."""

    def configure_gradient_clipping(self, *args: object, **kwargs: object) -> None:
        self.seen = {name: p.grad.clone() for name, p in self.vlm.named_parameters() if p.grad is not None}


def module() -> Recorder:
    torch.manual_seed(0)
    backbone = BackboneConfig(
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        # The shares in balance and ratio loss are those of a batch, so only their cross entropy can be the same.
        experts=ExpertsConfig(num_experts=4, top_k=2, hidden=8, balance_weight=0.0, z_weight=0.0),
        chunk=ChunkConfig(compression=2.0, tau=None, ratio_weight=0.0),
        init_std=0.2,
    )
    config = ModelConfig(tokenizer="demo", encoder=None, connector=ConnectorConfig(), backbone=backbone)
    return Recorder(config, OptimizerConfig(lr=1e-2, warmup_steps=0), hold_compression=False)


def text(lengths: tuple[int, ...], num_answered: int, seed: int) -> Batch:
    n = sum(lengths)
    ids = torch.randint(10, 60, (n,), generator=torch.Generator().manual_seed(seed))
    labels = torch.full((n,), IGNORED)
    labels[-num_answered:] = ids[:num_answered]
    place = torch.cat([torch.arange(length) for length in lengths])
    return Batch(
        ids=ids,
        labels=labels,
        positions=place[:, None].expand(n, 3).contiguous(),
        lengths=lengths,
        is_image=torch.zeros(n, dtype=torch.bool),
        images=(),
        image_keys=(),
        slots_per_image=(),
        sample_ids=tuple(map(str, lengths)),
        cursor=None,
        num_image_slots=0,
        num_answered=num_answered,
    )


def joined(first: Batch, second: Batch) -> Batch:
    tensors = {
        name: torch.cat([getattr(first, name), getattr(second, name)])
        for name in ("ids", "labels", "positions", "is_image")
    }
    return Batch(
        **tensors,
        lengths=first.lengths + second.lengths,
        images=(),
        image_keys=(),
        slots_per_image=(),
        sample_ids=first.sample_ids + second.sample_ids,
        cursor=None,
        num_image_slots=0,
        num_answered=first.num_answered + second.num_answered,
    )


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers
def test_two_micro_batches_with_unequal_answers_give_the_gradient_of_one_batch() -> None:
    micro = [text((7, 5), num_answered=9, seed=1), text((6,), num_answered=2, seed=2)]

    def gradients(batches: list[Batch], accumulate: int) -> dict[str, Tensor]:
        learner = module()
        trainer = Trainer(
            accelerator="cpu",
            max_steps=1,
            accumulate_grad_batches=accumulate,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(learner, DataLoader(batches, batch_size=None))
        return learner.seen

    whole = gradients([joined(*micro)], accumulate=1)
    parts = gradients(micro, accumulate=2)
    assert max(gradient.abs().max() for gradient in whole.values()) > 0.01
    assert parts.keys() == whole.keys()
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
