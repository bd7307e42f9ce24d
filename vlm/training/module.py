"""The Lightning module: one training step from a packed batch, with the loss normalised over all ranks and micro-batches.

Sums are back-propagated, not means: the number of answered tokens differs from rank to rank and from micro-batch to micro-batch. The counts are
added up over the accumulated steps, reduced once over ranks, and the gradients scaled before they are clipped, which undoes DDP's mean and
Lightning's division. Each rank's auxiliary loss is scaled by the backbone so that its mean over ranks is the loss of all tokens together.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from data.batch import Batch
from vlm.backbone import BackboneOutput, RatioController
from vlm.model import ModelConfig, VisionLanguageModel
from vlm.model_folder import check_weights, start_from
from vlm.training.frozen_features import FrozenFeatures
from vlm.training.loss import answered_cross_entropy
from vlm.training.optim import OptimizerConfig, build_optimizer
from vlm.training.parallel import all_sum, num_ranks, step_seed


def watched(out: BackboneOutput) -> dict[str, Any]:
    """What the monitor reads from one forward pass, without its graph."""
    return {
        "losses": {name: value.detach() for name, value in out.losses.items()},
        "closes_at_evaluation": None if out.chunks is None else out.chunks.prob.detach() >= 0.5,
        "expert_load": out.expert_load,
    }


class VLMTrainingModule(LightningModule):
    """Trains a VisionLanguageModel.

    Args:
        config: the model.
        optimizer: how its weights learn.
        freeze: names of the parts that do not learn, such as `encoder` or `backbone.encoder_blocks`.
        feature_cache: folder for the features of a frozen encoder, `auto` for the user's cache folder; null encodes every picture each time.
        hold_compression: let a controller move the weight of the ratio loss so that the target is held in evaluation mode; false keeps the
            constant weight of the paper.
        compile_blocks: run the backbone's blocks through torch.compile; needs a C++ compiler, and some minutes at the start.
        recompute_blocks: keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a third more work.
        start: model folder whose weights it begins with, in float32; parts that the folder lacks begin new.
    """

    def __init__(
        self,
        config: ModelConfig,
        optimizer: OptimizerConfig,
        freeze: list[str] | None = None,
        feature_cache: str | None = None,
        hold_compression: bool = True,
        compile_blocks: bool = False,
        recompute_blocks: bool = False,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.vlm = VisionLanguageModel(config)
        if start is not None:
            start_from(self.vlm, Path(start))
        self.vlm.backbone.recompute_blocks = recompute_blocks
        if compile_blocks:
            self.vlm.backbone.compile_blocks()
        self.optimizer_config = optimizer
        self.freeze_parts(freeze or [])
        if feature_cache is not None and (
            self.vlm.encoder is None or any(p.requires_grad for p in self.vlm.encoder.parameters())
        ):
            raise ValueError(
                "model.feature_cache keeps the features of a frozen encoder, but the encoder learns; "
                "add `encoder` to model.freeze, or set feature_cache: null"
            )
        self.frozen_features = None if feature_cache is None else FrozenFeatures(feature_cache)
        chunk = config.backbone.chunk
        # One for each ratio target; empty where the weight is constant or nothing is chunked.
        self.controllers = (
            {name: RatioController(target, chunk.ratio_weight) for name, target in chunk.targets.items()}
            if chunk is not None and hold_compression
            else {}
        )
        self.seed = 0
        self._answered: Tensor | float = 0.0  # over the accumulated micro-batches of this rank
        self._micro_batch = 0  # of the step

    def freeze_parts(self, names: list[str]) -> None:
        """Stop the named parts from learning.

        Raises:
            ValueError: a name is no part of the model.
        """
        self.frozen_names = tuple(names)
        for name in names:
            hit = [p for key, p in self.vlm.named_parameters() if key == name or key.startswith(name + ".")]
            if not hit:
                parts = sorted({key.split(".")[0] for key, _ in self.vlm.named_parameters()})
                raise ValueError(
                    f"model.freeze names {name!r}, which is no part of this model; parts are {', '.join(parts)}"
                )
            for parameter in hit:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "VLMTrainingModule":
        """As usual, but a frozen part stays in evaluation mode: its norms' statistics must not move."""
        super().train(mode)
        for name in self.frozen_names:
            part = self.vlm.get_submodule(name) if name in dict(self.vlm.named_modules()) else None
            if part is not None:
                part.eval()
        return self

    def configure_optimizers(self) -> Any:
        """AdamW and a schedule over `trainer.max_steps`."""
        if self.trainer.max_steps < 1:
            raise ValueError(
                f"trainer.max_steps must say how many steps the schedule spans, got {self.trainer.max_steps}; set trainer.max_steps"
            )
        optimizer, scheduler = build_optimizer(self.vlm, self.optimizer_config, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Fill the feature cache before the loaders are made, so that they need not decode those pictures."""
        if self.frozen_features is not None:
            self.frozen_features.attach(self.vlm, self.trainer, stage)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draws depend on (seed, step, micro-batch, rank) alone, so that a resumed run draws what the unbroken one would have."""
        # Counted here: after a restart Lightning's batch_idx need not begin an accumulation at a multiple of it.
        torch.manual_seed(step_seed(self.seed, self.global_step, self._micro_batch, self.global_rank))
        self._micro_batch += 1

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Sum of the losses of this rank's micro-batch, with what is to be watched."""
        out = self.vlm(batch)
        cross_entropy = answered_cross_entropy(out.hidden, batch.labels, self.vlm.head_weight, batch.num_answered)
        # Filled there, not copied from here: a copy would wait for the device.
        answered = torch.full((), float(batch.num_answered), dtype=torch.float64, device=cross_entropy.device)
        self._answered = self._answered + answered
        everywhere = all_sum(answered.clone())
        auxiliary = self.auxiliary_loss(out)
        # The mean over ranks of `auxiliary` is that of all tokens together; it counts once for each answered token of the step.
        loss = cross_entropy + auxiliary * (everywhere / num_ranks()).to(auxiliary.dtype)
        self.hold_compression(out)
        return {"loss": loss, "cross_entropy": cross_entropy.detach()} | watched(out)

    def auxiliary_loss(self, out: BackboneOutput) -> Tensor:
        """Ratio, balance and z losses, each with its weight."""
        config = self.vlm.config.backbone
        total = config.experts.balance_weight * out.losses["balance"] + config.experts.z_weight * out.losses["z"]
        if config.chunk is not None:
            for name in config.chunk.targets:
                weight = self.controllers[name].weight if name in self.controllers else config.chunk.ratio_weight
                total = total + weight * out.losses[name]
        return total

    def hold_compression(self, out: BackboneOutput) -> None:
        """Let the controllers see how many tokens of each kind close a concept by the threshold, over all ranks."""
        if not self.controllers or out.chunks is None:
            return
        text, image = out.chunks.counts
        apart = "ratio_image" in self.controllers
        seen = {"ratio": text if apart else [text[0] + image[0], text[1] + image[1]], "ratio_image": image}
        for name, controller in self.controllers.items():
            controller.update(*seen[name])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the gradient of sums into that of the mean over all answered tokens of the step. Runs before clipping."""
        assert isinstance(self._answered, Tensor)
        total = all_sum(self._answered)
        # DDP averaged over ranks and Lightning divided by the accumulated batches: both are undone here.
        scale = num_ranks() * self.trainer.accumulate_grad_batches / total.clamp(min=1)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale.to(parameter.grad))
        self._answered = 0.0
        self._micro_batch = 0

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Loss and compression in evaluation mode, summed; `watch` adds them up."""
        out = self.vlm(batch)
        cross_entropy = answered_cross_entropy(out.hidden, batch.labels, self.vlm.head_weight, batch.num_answered)
        return {"cross_entropy": cross_entropy} | watched(out)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.refuse_broken_weights()
        checkpoint["ratio_controllers"] = {
            name: controller.state_dict() for name, controller in self.controllers.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another architecture by name, before Lightning raises pages of keys."""
        check_weights(self, checkpoint["state_dict"], self.trainer.ckpt_path or "the checkpoint")
        states = checkpoint.get("ratio_controllers", {})
        for name, controller in self.controllers.items():
            if name in states:
                controller.load_state_dict(states[name])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder that `VisionLanguageModel.from_pretrained` reads."""
        self.refuse_broken_weights()
        self.vlm.save_pretrained(folder)

    def refuse_broken_weights(self) -> None:
        """A gradient that is not a number breaks the weights one step before the loss tells; such weights are never written.

        Raises:
            ValueError: names the first such weight.
        """
        for name, parameter in self.vlm.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise ValueError(
                    f"the weight {name} is not a number after step {self.global_step}, nothing was written; "
                    "lower optimizer.lr, or clip with trainer.gradient_clip_val, and resume from the last checkpoint"
                )
