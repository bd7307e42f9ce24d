"""Documents, infographics, charts and text recognition: DocVQA, InfographicVQA, ChartQA, OCRBench.

The whole response is the answer, blanks at both ends aside; an empty one is unparsed. Answers may be long: lmms-eval cuts them at 32 tokens
in DocVQA, we do not before 64.
"""

from collections.abc import Sequence
from typing import Any

from eval.metrics import anls, ocrbench_match, relaxed_accuracy
from eval.outcome import Outcome
from eval.subject_scores import ocrbench_scores
from eval.task import Task, own_group
from eval.tasks.kinds import by_meta
from eval.tasks.shards import Benchmark
from eval.tasks.vqa import SHORT, WHOLE
from eval.truth import Truth, against_answers, against_first_answer


def docvqa() -> Task:
    """DocVQA, validation of the single-page task (arXiv 2007.00398). Score: ANLS by the board's script; by question type."""
    return Task(
        name="docvqa/val",
        questions=Benchmark("docvqa/val"),
        prompts=SHORT,
        extract=WHOLE,
        metric=against_answers(anls),
        summary=by_meta(by_question_type="question_types"),
        group_by=own_group,
        max_new_tokens=64,
        category="chart and text",
    )


def infovqa() -> Task:
    """InfographicVQA, validation (arXiv 2104.12756). Score: ANLS by the board's script; by answer type and operation."""
    return Task(
        name="infovqa/val",
        questions=Benchmark("infovqa/val"),
        prompts=SHORT,
        extract=WHOLE,
        metric=against_answers(anls),
        summary=by_meta(by_answer_type="answer_type", by_operation="operation"),
        group_by=own_group,
        max_new_tokens=64,
        category="chart and text",
    )


def chartqa() -> Task:
    """ChartQA, test (arXiv 2203.10244): questions by people and augmented ones. Score: relaxed accuracy over both."""
    return Task(
        name="chartqa/test",
        questions=Benchmark("chartqa/test"),
        prompts={**SHORT, "lmms-eval": "lmms-eval/single-word"},
        extract=WHOLE,
        metric=against_first_answer(relaxed_accuracy),
        group_by=own_group,
        category="chart and text",
    )


def ocrbench() -> Task:
    """OCRBench (arXiv 2305.07895). Score: share of answers that contain a right one; `Final Score`: their number, of 1000."""
    return Task(
        name="ocrbench",
        questions=Benchmark("ocrbench"),
        prompts={"official": "question", **SHORT},
        extract=WHOLE,
        metric=_ocrbench_match,
        summary=_ocrbench_figures,
        max_new_tokens=128,
        category="chart and text",
    )


def _ocrbench_match(answer: str, truth: Truth) -> float:
    return ocrbench_match(answer, truth.answers, truth.meta["dataset"])


def _ocrbench_figures(found: Sequence[Outcome]) -> dict[str, Any]:
    return {"ocrbench": ocrbench_scores([one.score for one in found], [one.category or "" for one in found])}
