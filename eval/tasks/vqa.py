"""Short answers about photographs, and about text in them: VQAv2, GQA, TextVQA.

The whole response is the answer, blanks at both ends aside, as in the official scripts; an empty one is unparsed. Questions about one
picture are one draw of the interval. Prompt: LLaVA-1.5's for all three.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.answers import whole_response
from eval.metrics import gqa_accuracy, textvqa_accuracy, vqa_accuracy
from eval.outcome import Outcome
from eval.task import Task, own_group
from eval.tasks.kinds import by_meta
from eval.tasks.shards import Benchmark
from eval.truth import against_answers, against_first_answer, from_text

SHORT = {"llava": "llava/short-answer"}
WHOLE = from_text(whole_response)


def vqav2() -> Task:
    """VQAv2, validation (arXiv 1612.00837). Score: VQA accuracy over ten people; by answer type and by question type."""
    return Task(
        name="vqav2/val",
        questions=Benchmark("vqav2/val"),
        prompts=SHORT,
        extract=WHOLE,
        metric=against_answers(vqa_accuracy),
        summary=by_meta(by_question_type="question_type"),
        group_by=own_group,
        category="question answering",
    )


def gqa() -> Task:
    """GQA, testdev, balanced (arXiv 1902.09506). Score: accuracy without regard to case and punctuation; `exact`: as is."""
    return Task(
        name="gqa/testdev",
        questions=Benchmark("gqa/testdev"),
        prompts=SHORT,
        extract=WHOLE,
        metric=against_first_answer(gqa_accuracy),
        summary=_gqa_figures,
        group_by=own_group,
        category="question answering",
    )


def textvqa() -> Task:
    """TextVQA, validation (arXiv 1904.08920), no OCR tokens in the prompt. Score: VQA accuracy over ten people."""
    return Task(
        name="textvqa/val",
        questions=Benchmark("textvqa/val"),
        prompts=SHORT,
        extract=WHOLE,
        metric=against_answers(textvqa_accuracy),
        group_by=own_group,
        category="chart and text",
    )


def _gqa_figures(found: Sequence[Outcome]) -> Mapping[str, Any]:
    """Beside the score: equality of strings as the official script has it, and the scores by semantic type."""
    exact = sum(one.answer == one.targets[0] for one in found) / len(found)
    return {"exact": exact, **by_meta(by_semantic_type="semantic")(found)}
