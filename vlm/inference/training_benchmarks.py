"""Benchmarks while a model trains: every so many steps some questions of each task, logged beside the loss.

In: a training run. Out: `benchmark/TASK` in its logs, a line for each task, and all answers in RUN/benchmarks/step-N/, as `vlm eval`
keeps them: `vlm eval report` reads two such folders. Greedy answers and fixed questions: the points of a curve differ by the
weights alone. Training draws nothing else for it, since each step seeds its own draws.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer

from data.sample import Question
from eval.plan import make_plan
from eval.ranks import Place
from eval.report import write_scores
from eval.run import answer_share, evaluate
from eval.score import Result
from eval.subset import limited
from eval.task import Task, find_tasks
from eval.tasks.long_context import measured
from eval.tasks.shards import Benchmark, require_all_usable, shards_task
from vlm.inference.answer import ModelAnswerer
from vlm.inference.pictures import PictureFeatures
from vlm.training.watch import Monitor, log_figures


@dataclass(frozen=True)
class OwnQuestions:
    """Benchmark shards of the user's own.

    Args:
        shards: a tar, a folder of tars, or a brace pattern.
        mode: `choose` ranks the record's choices, `generate` compares a written answer.
    """

    shards: str
    mode: Literal["choose", "generate"] = "generate"


class TrainingBenchmarks(Callback):
    """Asks some questions of each task every `every_steps` steps, and after the last one.

    Args:
        tasks: names as `vlm eval tasks` lists them, such as demo/presence or a group, or {shards: PATH, mode: choose} for
            questions of your own; none switches it off.
        every_steps: optimizer steps between two looks.
        limit: questions of each task, spread over all, the same each time; null for all.
        blind: of these, how many are also asked without their pictures.

    Raises:
        ValueError: an unknown task, shards that cannot be read, or a setting out of its range.
    """

    def __init__(
        self,
        tasks: list[str | OwnQuestions] | str | None = None,
        every_steps: int = 500,
        limit: int | None = 100,
        blind: int = 0,
    ) -> None:
        for name, value, least in (("every_steps", every_steps, 1), ("limit", limit, 1), ("blind", blind, 0)):
            if value is not None and value < least:
                raise ValueError(f"benchmarks.{name} must be at least {least}, got {value}")
        self.every_steps, self.limit, self.blind = every_steps, limit, blind
        self.tasks = chosen([tasks] if isinstance(tasks, str) else tasks or [])
        self.last_step = 0
        self.pictures: PictureFeatures | None = None  # of a frozen encoder, kept from look to look

    @property
    def state_key(self) -> str:
        """The same for every setting: a run may go on with other benchmarks."""
        return "TrainingBenchmarks"

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Read and check every question before the first step: a bad one must not end a run in its middle."""
        if stage != "fit":
            return
        model = pl_module.vlm
        self.tasks = [self._fixed(task, model) for task in self.tasks]
        for task in self.tasks:
            make_plan(task, "before training", 0)

    def _fixed(self, task: Task, model: Any) -> Task:
        from eval.long_context.measure import Measure

        task = measured(task, lambda: Measure(model.tokenizer, model.layout))
        if self.limit is None:
            return task
        questions: Sequence[Question] = limited(task, self.limit).questions()
        return replace(task, questions=lambda: questions)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self.last_step or not self.tasks:  # gradients are being accumulated
            return
        self.last_step = step
        if step % self.every_steps == 0 or step == trainer.max_steps:
            began = time.perf_counter()
            self._look(trainer, pl_module, step)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # of the callback connector
                if isinstance(callback, Monitor):
                    callback.leave_out(time.perf_counter() - began)

    def _look(self, trainer: Trainer, pl_module: Any, step: int) -> None:
        """Every process answers its share, into files; the first scores, and tells the others."""
        place = Place(trainer.global_rank, trainer.world_size)
        folder = Path(trainer.default_root_dir, "benchmarks", f"step-{step}")
        with trainer.precision_plugin.forward_context():
            answerer = self._answerer(pl_module.vlm)
            if place.rank:
                for task in self.tasks:
                    answer_share(task, answerer, folder, place, self.blind)
                results = {}
            else:
                results = {
                    task.name: evaluate(task, answerer, folder, self.blind, world=place.world) for task in self.tasks
                }
        figures = {
            f"benchmark/{name}": value for task, one in results.items() for name, value in told(task, one).items()
        }
        figures = trainer.strategy.broadcast(figures)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})
        if results:
            write_scores(folder / "scores.json", results)
            log_figures(trainer, figures, step)
            print(f"benchmarks at step {step}", *map(line, results.items()), sep="\n    ", flush=True)

    def _answerer(self, model: Any) -> ModelAnswerer:
        answerer = ModelAnswerer(model)
        frozen = model.encoder is not None and not any(one.requires_grad for one in model.encoder.parameters())
        if frozen and self.pictures is not None:
            answerer.pictures = self.pictures
        self.pictures = answerer.pictures if frozen else None
        return answerer


def chosen(tasks: Sequence[str | OwnQuestions]) -> list[Task]:
    """The tasks, each once.

    Raises:
        ValueError: an unknown one, or one that is not prepared.
    """
    found: dict[str, Task] = {}
    for one in tasks:
        if isinstance(one, str) and one.strip()[:1] in (
            "[",
            "{",
        ):  # a mapping that is none of OwnQuestions came as text
            raise ValueError(
                f"benchmarks.tasks: {one} is no task; write names and {{shards: PATH, mode: choose}}, mode choose or generate"
            )
        for task in find_tasks(one) if isinstance(one, str) else [own(one)]:
            if isinstance(task.questions, Benchmark):
                task.questions.require()
            found[task.name] = task
    return list(found.values())


def own(wanted: OwnQuestions) -> Task:
    """A task of the user's shards, whose questions are read, and all usable."""
    task = shards_task(wanted.shards, wanted.mode)
    try:
        questions = task.questions()
    except ValueError as error:
        raise ValueError(f"benchmarks.tasks, {wanted.shards}: {error}") from None
    require_all_usable(questions, wanted.shards)
    return replace(task, questions=lambda: questions)


def told(task: str, result: Result) -> dict[str, float]:
    """What is logged of a task."""
    return {task: result.score} | ({} if result.blind is None else {f"{task}/blind": result.blind})


def line(named: tuple[str, Result]) -> str:
    """`demo/presence: 0.612 [0.561, 0.660], n 100, chance 0.500`, and what went wrong."""
    task, result = named
    text = f"{task}: {result.score:.3f} [{result.low:.3f}, {result.high:.3f}], n {result.n}, chance {result.chance:.3f}"
    text += "" if result.blind is None else f", blind {result.blind:.3f}"
    text += f", unparsed {result.unparsed:.0%}" if result.unparsed else ""
    return text + (f", {result.failed} failed" if result.failed else "")
