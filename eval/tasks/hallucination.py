"""What a model says that is not there: POPE, MME, HallusionBench by yes and no; CHAIR in descriptions.

Yes and no are read by each benchmark's own rule (eval/answers/lines.py), quirks included. What a rule calls neither is unparsed.
"""

from collections.abc import Sequence
from typing import Any, Literal

from eval.answers import parse_yes_no
from eval.group_scores import hallusion_scores, mme_scores, pope_scores
from eval.metrics import exact_match
from eval.object_scores import chair_scores
from eval.outcome import Outcome
from eval.task import Task, own_group
from eval.tasks.hallucination_figures import CHAIR, MME_TOTAL, POPE_F1, chair_of_caption, whole_pairs
from eval.tasks.shards import Benchmark
from eval.tasks.vqa import SHORT, WHOLE
from eval.truth import Extract, Truth, against_answers, from_text


def pope() -> Task:
    """POPE (arXiv 2305.10355): is this object there? Score: mean F1 of "yes" over random, popular and adversarial.

    By POPE's rule all that is not a no is a yes, the empty answer too: nothing is unparsed.
    """
    return Task(
        name="pope",
        questions=Benchmark("pope"),
        prompts={**SHORT, "official": "question"},
        extract=_yes_or_no("pope"),
        metric=against_answers(exact_match),
        guesses=_either,
        headline=POPE_F1,
        summary=lambda found: {"pope": pope_scores(*_said(found), [one.category or "" for one in found])},
        group_by=own_group,
        category="description",
    )


def mme() -> Task:
    """MME (arXiv 2306.13394): 14 tasks, two questions about each picture. Score: perception and cognition, of 2800 points."""
    return Task(
        name="mme",
        questions=Benchmark("mme"),
        prompts={"official": "official/mme", **SHORT},
        extract=_yes_or_no("mme"),
        metric=against_answers(exact_match),
        guesses=_either,
        headline=MME_TOTAL,
        summary=_mme_figures,
        group_by=own_group,
        category="comprehensive",
    )


def hallusionbench() -> Task:
    """HallusionBench, all questions (arXiv 2310.14566). Score: aAcc, share of questions right; also qAcc and fAcc."""
    return _hallusionbench("hallusionbench/all")


def hallusionbench_image() -> Task:
    """HallusionBench, the questions with a picture, as lmms-eval and VLMEvalKit ask them. Score: aAcc; also qAcc, fAcc."""
    return _hallusionbench("hallusionbench/image")


def chair() -> Task:
    """CHAIR (arXiv 1809.02156) of long descriptions of 500 pictures of val2014. Score: 1 - CHAIR_i; also CHAIR_s, recall."""
    return _chair("chair/val500", "llava/describe", 512)


def chair_karpathy() -> Task:
    """CHAIR of one-sentence captions of Karpathy's test split, as in the paper. Score: 1 - CHAIR_i; also CHAIR_s, recall."""
    return _chair("chair/karpathy", "llava/caption", 64)


def _hallusionbench(name: str) -> Task:
    return Task(
        name=name,
        questions=Benchmark(name),
        prompts={"vlmevalkit": "vlmevalkit/yes-no", "official": "question", **SHORT},
        extract=_yes_or_no("vlmevalkit"),
        metric=against_answers(exact_match),
        guesses=_either,
        summary=_hallusion_figures,
        group_by=own_group,
        max_new_tokens=64,
        category="description",
    )


def _chair(name: str, prompt: str, max_new_tokens: int) -> Task:
    return Task(
        name=name,
        questions=Benchmark(name),
        prompts={"llava": prompt},
        extract=WHOLE,
        metric=chair_of_caption,
        headline=CHAIR,
        summary=_chair_figures,
        max_new_tokens=max_new_tokens,
        category="description",
    )


def _yes_or_no(rule: Literal["pope", "mme", "vlmevalkit"]) -> Extract:
    def read(text: str) -> str | None:
        said = parse_yes_no(text, rule)
        return None if said == "other" else said

    read.__name__ = f"parse_yes_no, {rule}"
    return from_text(read)


def _either(truth: Truth) -> tuple[str, ...]:
    return ("yes", "no")


def _said(found: Sequence[Outcome]) -> tuple[list[str | None], list[str]]:
    return [one.answer for one in found], [one.targets[0] for one in found]


def _mme_figures(found: Sequence[Outcome]) -> dict[str, Any]:
    whole = whole_pairs(found)
    if not whole:
        return {}
    scores = [one.score for one in whole]
    return {"mme": mme_scores(scores, [one.category or "" for one in whole], [one.truth.group for one in whole])}


def _hallusion_figures(found: Sequence[Outcome]) -> dict[str, Any]:
    def of(field: str) -> list[str]:
        return [str(one.truth.meta[field]) for one in found]

    scores = [one.score for one in found]
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    return {"hallusionbench": hallusion_scores(scores, *map(of, names))}


def _chair_figures(found: Sequence[Outcome]) -> dict[str, Any]:
    figures = chair_scores(
        [one.answer or "" for one in found],
        [one.truth.meta["objects"] for one in found],
        [one.truth.answers for one in found],
    )
    return {"chair": vars(figures)}
