"""Test questions to show: which ones, what was asked, what the model said, what is true, and what it merged.

In: a finished evaluation's folder. Out: `ExampleView`s for report.py. The questions are drawn by a hash of their ids,
before anybody knows how they went: a page that showed only what went well would say nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.sample import Question
from eval.outcome import Outcome
from eval.run import read_outcomes
from eval.task import Task
from vlm.inference.pictures import PictureFeatures
from vlm.inference.viewer import ConceptView, view_concepts
from vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class ExampleView:
    """One question with its answer, ready to be drawn."""

    task: str
    question: str  # its words
    answer: str  # what the model said or chose
    truth: str
    score: float  # of the answer, in [0, 1]
    view: ConceptView
    choices: tuple[str, ...] = ()


def collect_examples(
    model: VisionLanguageModel, folder: str | Path, tasks: Sequence[Task], count: int = 12
) -> list[ExampleView]:
    """Questions with pictures from finished evaluations of this model, the tasks in turn.

    Args:
        folder: in which the tasks were evaluated.
    """
    pictures = PictureFeatures(model)
    queues = [(task, task.questions(), _drawn(read_outcomes(folder, task))) for task in tasks]
    found: list[ExampleView] = []
    depth = 0
    while len(found) < count and any(depth < len(drawn) for _, _, drawn in queues):
        for task, questions, drawn in queues:
            if depth < len(drawn) and len(found) < count:
                found.append(_example(model, task, questions[drawn[depth].place], drawn[depth], pictures))
        depth += 1
    order = {task.name: place for place, task in enumerate(tasks)}
    return sorted(found, key=lambda example: order[example.task])


def words_of(question: Question) -> str:
    """The text parts of a question, without its pictures."""
    return " ".join(part.text.strip() for part in question.content if part.text is not None).strip()


def _drawn(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: hashlib.sha256(outcome.id.encode()).digest())


def _example(
    model: VisionLanguageModel, task: Task, question: Question, outcome: Outcome, pictures: PictureFeatures
) -> ExampleView:
    # The answer as it was given; where it was chosen, the chosen words stand as if the model had said them.
    said = outcome.output if isinstance(outcome.output, str) else outcome.answer or ""
    return ExampleView(
        task=task.name,
        question=words_of(question),
        answer=said,
        truth=question.truth,
        score=outcome.score,
        view=view_concepts(model, task.ask(question), said, pictures=pictures),
        choices=question.choices if task.mode == "choose" else (),
    )
