"""What is watched while a model trains: loss, speed, compression, experts' load, and the time spent waiting for data.

Sums stay on the device between two log steps, and are reduced over ranks only there, so watching costs no synchronisation.
"""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from data.batch import Batch
from vlm.training.dependence import SUMS, Dependence
from vlm.training.logs import let_logs_open
from vlm.training.measures import Sums, measures, mix
from vlm.training.parallel import all_sum, num_ranks
from vlm.training.progress import TrainingBar
from vlm.training.summary import print_summary


class Monitor(Callback):
    """Logs and shows the figures of each window of `trainer.log_every_n_steps` steps, and those of each validation."""

    def __init__(self) -> None:
        self.window = Sums()
        self.validation: dict[int, Sums] = {}  # by source
        self.dependence: dict[int, Tensor] = {}  # by source
        self.validations = 0  # of the whole run
        self.validation_started = 0.0
        self.learning_rate = 0.0  # of the latest step
        self.last_step = 0
        self.bar: TrainingBar | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        let_logs_open(trainer.loggers)
        if trainer.is_global_zero:
            print_summary(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.window = Sums()
        self.last_step = trainer.global_step
        if trainer.is_global_zero and sys.stderr.isatty():
            self.bar = TrainingBar(trainer.global_step, trainer.max_steps)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.learning_rate = optimizer.param_groups[0]["lr"]  # once the step is over it is that of the next one

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.window.add(batch, outputs)
        step = trainer.global_step
        if step == self.last_step:  # gradients are being accumulated
            return
        self.last_step = step
        if self.bar is not None:
            self.bar.show_step(step)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by the logger connector
        if step == 1 or step % every == 0 or step == trainer.max_steps:
            self._report(trainer, pl_module, step, batch)

    def _report(self, trainer: Trainer, pl_module: Any, step: int, batch: Batch) -> None:
        window, self.window = self.window, Sums()
        total = window.reduce(pl_module.device)
        seconds = time.perf_counter() - window.started
        figures = measures(total)
        if not math.isfinite(total["cross_entropy"]):
            raise ValueError(
                f"the loss is not a number at step {step} (one of the last batches held {', '.join(batch.sample_ids[:3])}, ...); "
                "lower optimizer.lr, or clip with trainer.gradient_clip_val"
            )
        if window.expert_loads:
            figures["expert_load_max"] = max(float(load.max() / load.mean()) for load in window.expert_loads)
        figures |= {
            "balance": total["balance"] / total["steps"],
            "tokens_per_s": total["tokens"] / seconds,
            "waiting_for_data": total["wait_s"] / num_ranks() / seconds,
            "learning_rate": self.learning_rate,
        }
        if "compression" in figures:
            figures["ratio"] = total["ratio"] / total["steps"]
        figures |= {f"{name}_weight": controller.weight for name, controller in pl_module.controllers.items()}
        log_figures(trainer, {f"train/{name}": value for name, value in figures.items()}, step)
        if trainer.is_global_zero:
            self._show(trainer, step, figures)

    def _show(self, trainer: Trainer, step: int, figures: dict[str, float]) -> None:
        loss = f"loss {figures['loss']:.3f}" if "loss" in figures else "nothing answered"
        line = f"{loss} | {figures['tokens_per_s']:,.0f} tokens/s"
        if "compression_text" in figures:
            line += f" | compression text {figures['compression_text']:.2f}"
        if "compression_image" in figures:
            line += f" image {figures['compression_image']:.2f}"
        if "expert_load_max" in figures:
            line += f" | busiest expert {figures['expert_load_max']:.1f}x"
        line += f" | data wait {figures['waiting_for_data']:.0%}"
        if self.bar is not None:
            self.bar.show_figures(line)
        else:
            print(f"step {step:>5} of {trainer.max_steps} | {line}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation, self.dependence = {}, {}
        self.validation_started = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.validation.setdefault(dataloader_idx, Sums()).add(batch, outputs)
        if outputs["dependence"] is not None:
            before = self.dependence.get(dataloader_idx, 0.0)
            self.dependence[dataloader_idx] = before + outputs["dependence"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self.validation:
            return
        mixture = trainer.datamodule.val_mixture  # type: ignore[attr-defined]  # of data/module.py
        sums = [self.validation[place].reduce(pl_module.device) for place in sorted(self.validation)]
        dependence = self._reduced_dependence(pl_module)
        weighed = [(weight, one) for (_, weight), one in zip(mixture, sums, strict=True)]
        figures = {f"val/{name}": value for name, value in measures(mix(weighed)).items()}
        apart = {
            f"val/{source.removeprefix('demo:').removeprefix('val/')}/{name}": value
            for (source, _), one, other in zip(mixture, sums, dependence, strict=True)
            for name, value in (measures(one) | ({} if other is None else other.figures())).items()
        }
        log_figures(trainer, figures | apart, trainer.global_step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})
        if trainer.is_global_zero:
            print(f"validation at step {trainer.global_step} | {_words(measures(mix(weighed)))}", flush=True)
            for (source, _), one, other in zip(mixture, sums, dependence, strict=True):
                print(f"    {source}: {_words(measures(one))}", flush=True)
                if other is not None:
                    print(f"        {other.words()}", flush=True)
            self._warn(trainer, [(source, other) for (source, _), other in zip(mixture, dependence, strict=True)])
        self.validations += 1
        self.leave_out(time.perf_counter() - self.validation_started)

    def leave_out(self, seconds: float) -> None:
        """Time of evaluation is no time of training: speed and waiting are those of the training steps."""
        self.window.started += seconds

    def _reduced_dependence(self, pl_module: Any) -> list[Dependence | None]:
        """Of each source, over all ranks, in one sum that every rank takes part in."""
        if not pl_module.image_dependence.rows:
            return [None] * len(self.validation)
        table = torch.zeros(len(self.validation), SUMS, dtype=torch.float64, device=pl_module.device)
        for row, place in enumerate(sorted(self.validation)):
            table[row] += self.dependence.get(place, 0.0)
        return [Dependence.from_sums(sums) for sums in all_sum(table).tolist()]

    def _warn(self, trainer: Trainer, sources: Sequence[tuple[str, Dependence | None]]) -> None:
        """Not at a run's first validation: what the pictures are good for is learnt last."""
        in_a_run = trainer.state.fn == TrainerFn.FITTING
        for source, dependence in sources:
            if dependence is not None and dependence.is_absent and (self.validations or not in_a_run):
                print(
                    f"WARNING {source}: the loss does not depend on the pictures: with another sample's it is "
                    f"{dependence.other_picture - dependence.true_picture:+.4f} (standard error "
                    f"{dependence.standard_error:.4f}); is the connector learning, and do the answers need the pictures?",
                    flush=True,
                )

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]


def log_figures(trainer: Trainer, figures: dict[str, float], step: int) -> None:
    """Into all logs of the run, and onto the disk."""
    for logger in trainer.loggers:
        logger.log_metrics(figures, step)
        logger.save()  # the CSV logger else keeps its lines in memory, and a killed run has none


def _words(figures: dict[str, float]) -> str:
    """`loss 2.161 | compression 1.926, text 2.531, image 1.000`, as far as there are such figures."""
    parts = [f"{name.removeprefix('compression_')} {value:.3f}" for name, value in figures.items() if name != "loss"]
    loss = [f"loss {figures['loss']:.3f}"] if "loss" in figures else []
    return " | ".join([*loss, ", ".join(parts)] if parts else loss)
