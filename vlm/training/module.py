"""The Lightning module: one training step from a packed batch, with the loss normalised over all ranks and micro-batches.

Sums are back-propagated, not means: the number of answered tokens differs from rank to rank and from micro-batch to micro-batch. The counts are
added up over the accumulated steps, reduced once over ranks, and the gradients scaled before they are clipped, which undoes DDP's mean and
Lightning's division. Each rank's auxiliary loss is scaled by the backbone so that its mean over ranks is the loss of all tokens together.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from data.batch import Batch
from vlm.backbone import BackboneOutput, RatioController
from vlm.model import ModelConfig, VisionLanguageModel
from vlm.model_folder import check_weights, start_from
from vlm.training.dependence import ImageDependence
from vlm.training.frozen_features import FrozenFeatures
from vlm.training.lora import Adapters, LoraSettings
from vlm.training.loss import answered_cross_entropy
from vlm.training.optim import OptimizerConfig, build_optimizer
from vlm.training.parallel import all_sum, num_ranks, step_seed
from vlm.training.parts import choose_learning, learning_rates, rest_frozen
from vlm.training.unfreeze import Unfreezing


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
        train_only: names of the parts that learn, such as `connector` or `backbone.chunker` (see parts.py); all others are frozen.
        freeze: names of the parts that do not learn; they are taken off `train_only`.
        feature_cache: folder for the features of a frozen encoder, `auto` for the user's cache folder; null encodes every picture each time.
        hold_compression: let a controller move the weight of the ratio loss so that the target is held in evaluation mode; false keeps the
            constant weight of the paper.
        compile_blocks: run the backbone's blocks through torch.compile; needs a C++ compiler, and some minutes at the start.
        recompute_blocks: keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a third more work.
        start: model folder whose weights it begins with, in float32; parts that the folder lacks begin new.
        open_steps: steps in which the share of tokens that are concepts of their own, whatever the chunker says, falls from 1 to 0: a
            model of `vlm convert to-conceptmoe` then begins at its source's loss. Of training alone; evaluation asks the chunker.
        unfreeze: for parts that begin to learn later, by name, after how many steps (see unfreeze.py).
        lora: low-rank adapters on some parts (see lora.py), whose own weights are frozen but for what `train_only` names.
        image_dependence_rows: rows of each source, on each process, on which a validation also measures the loss with other pictures
            and with none (see dependence.py); 0: none.
    """

    def __init__(
        self,
        config: ModelConfig,
        optimizer: OptimizerConfig,
        train_only: list[str] | None = None,
        freeze: list[str] | None = None,
        feature_cache: str | None = None,
        hold_compression: bool = True,
        compile_blocks: bool = False,
        recompute_blocks: bool = False,
        start: str | None = None,
        open_steps: int = 0,
        unfreeze: dict[str, int] | None = None,
        lora: LoraSettings | None = None,
        image_dependence_rows: int = 4,
    ) -> None:
        super().__init__()
        if open_steps and (open_steps < 0 or config.backbone.chunk is None):
            raise ValueError(
                f"model.open_steps is a number of steps in which a chunker takes over, got {open_steps}"
                + ("" if open_steps < 0 else " for a model without a chunker (chunk: null); leave it out")
            )
        self.open_steps = open_steps
        self.vlm = VisionLanguageModel(config)
        self.start = start
        self.new_parts = [] if start is None else start_from(self.vlm, Path(start))
        self.vlm.backbone.recompute_blocks = recompute_blocks
        if compile_blocks:
            self.vlm.backbone.compile_blocks()
        self.optimizer_config = optimizer
        choose_learning(self.vlm, train_only, freeze)
        self.adapters = None if lora is None else Adapters(self.vlm, lora, train_only or ())
        if open_steps and not any(p.requires_grad for p in self.vlm.backbone.parameters()):
            raise ValueError(
                f"model.open_steps is {open_steps}, but the backbone is frozen and asks its chunker as in evaluation; "
                "leave it out, or let the chunker learn (model.train_only: [..., backbone.chunker])"
            )
        # A wrong name is refused before any work.
        learning_rates(self.vlm, optimizer.lr, optimizer.lr_of, optimizer.layer_decay)
        self.unfreezing = Unfreezing(self.vlm, unfreeze or {})
        self.image_dependence = ImageDependence(image_dependence_rows)
        # What else the optimizer's state and the weights' names belong to.
        self._of_this_run: dict[str, Any] = {
            "optimizer.layer_decay": dict(optimizer.layer_decay),
            "model.unfreeze": dict(unfreeze or {}),
            "model.lora": None if lora is None else asdict(lora),
        }
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
        self._waiting: set[torch.nn.Parameter] = set()  # weights whose time to learn has not come
        self._answered: Tensor | float = 0.0  # over the accumulated micro-batches of this rank
        self._micro_batch = 0  # of the step

    def train(self, mode: bool = True) -> "VLMTrainingModule":
        """As usual, but what is wholly frozen, or waits for its time, stays in evaluation mode."""
        super().train(mode)
        self._waiting = self.unfreezing.waiting(self.global_step)
        rest_frozen(self.vlm, self._waiting)
        return self

    def configure_optimizers(self) -> Any:
        """AdamW and a schedule over `trainer.max_steps`."""
        if self.trainer.max_steps < 1:
            raise ValueError(
                f"trainer.max_steps must say how many steps the schedule spans, got {self.trainer.max_steps}; set trainer.max_steps"
            )
        self.unfreezing.require_within(self.trainer.max_steps)
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
        if self.unfreezing.waiting(self.global_step) != self._waiting:
            self.train()  # also the norms' statistics of a part move from its time on
        if self.vlm.backbone.chunker is not None:
            done = self.global_step / self.open_steps if self.open_steps else 1.0
            self.vlm.backbone.chunker.open_share = max(0.0, 1 - done)

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
        if not loss.requires_grad:
            # What learns had no part in this batch; its gradient is zero, as that of a connector by a batch of text.
            loss = loss + 0.0 * sum(p.sum() for p in self.vlm.parameters() if p.requires_grad)
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
        if self.adapters is not None:
            self.adapters.require_gradients()
        total = all_sum(self._answered)
        # DDP averaged over ranks and Lightning divided by the accumulated batches: both are undone here.
        scale = num_ranks() * self.trainer.accumulate_grad_batches / total.clamp(min=1)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in self._waiting:
                    parameter.grad = None
                if parameter.grad is not None:
                    parameter.grad.mul_(scale.to(parameter.grad))
        self._answered = 0.0
        self._micro_batch = 0

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Loss and compression in evaluation mode, summed; `watch` adds them up."""
        out = self.vlm(batch)
        cross_entropy = answered_cross_entropy(out.hidden, batch.labels, self.vlm.head_weight, batch.num_answered)
        dependence = self.image_dependence.measure(self.vlm, batch, out.hidden, dataloader_idx)
        return {"cross_entropy": cross_entropy, "dependence": dependence} | watched(out)

    def on_validation_start(self) -> None:
        self.image_dependence.begin()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.refuse_broken_weights()
        checkpoint["ratio_controllers"] = {
            name: controller.state_dict() for name, controller in self.controllers.items()
        }
        checkpoint["of_this_run"] = self._of_this_run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another architecture by name, before Lightning raises pages of keys."""
        self._refuse_another_run(checkpoint.get("of_this_run", {}))
        check_weights(self, checkpoint["state_dict"], self.trainer.ckpt_path or "the checkpoint")
        states = checkpoint.get("ratio_controllers", {})
        for name, controller in self.controllers.items():
            if name in states:
                controller.load_state_dict(states[name])

    def _refuse_another_run(self, saved: dict[str, Any]) -> None:
        """Raise ValueError where a setting that is no one's to change in the middle of a run differs; validation needs the adapters alone."""
        for name, here in self._of_this_run.items():
            there = saved.get(name) or None
            if there != (here or None) and (self.trainer.training or name == "model.lora"):
                raise ValueError(
                    f"{name} differs from that of {self.trainer.ckpt_path}: {there} there and {here or None} here; "
                    "set it as it was, or start a new run with --ckpt_path left out"
                )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder that `VisionLanguageModel.from_pretrained` reads; adapters are merged into its weights."""
        self.refuse_broken_weights()
        if self.adapters is None:
            self.vlm.save_pretrained(folder)
        else:
            self.adapters.save_merged(Path(folder))

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
