"""Benchmarks of choices: the model writes, a rule reads a letter. `--rule` ranks the choices by likelihood instead.

The reader of each is that of its official code, or of the harness that its published scores come from; what it cannot read is
unparsed, where the official code draws a letter at random. Prompts: `llava` (LLaVA-1.5's, for all) and `official`; where a benchmark
has published none (AI2D, ScienceQA for models that see, MMStar, SEED-Bench, which ranks), `vlmevalkit`: most published scores come from it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.answers import (
    infer_choice,
    parse_choice_mmmu,
    parse_first_letter,
    parse_leading_letter,
)
from eval.group_scores import category_scores, mmstar_scores
from eval.headline import Headline, all_right, mean_over
from eval.outcome import Outcome
from eval.subject_scores import mmmu_scores
from eval.task import Task, own_group
from eval.tasks.choice_rules import (
    mmbench_figures,
    of_choices,
    read_letter_or_text,
    read_mathvista,
    read_mmmu,
    read_mmmu_pro,
    read_scienceqa,
    same_text,
    scienceqa_figures,
    score_letter_or_text,
    score_mmmu,
)
from eval.tasks.shards import Benchmark
from eval.truth import letter_match, letters

LLAVA = {"llava": "llava/letter"}
OPEN = {"llava": "llava/short-answer"}
KIT = {"vlmevalkit": "official/mmbench"}  # VLMEvalKit asks all benchmarks of letters as MMBench does
TEXT_ALONE = {"question": "question"}  # for rules that rank the choices' texts
REASONED_TOKENS = 512  # answers that may think before they choose


def ai2d() -> Task:
    """AI2D, test (arXiv 1603.07396): diagrams whose labels are masked by the letters asked for. Score: accuracy."""
    return _letters("ai2d/masked", parse_leading_letter, "chart and text", prompts=KIT)


def ai2d_no_mask() -> Task:
    """AI2D, test, with the diagrams as drawn: over 10 points easier than the masked ones. Score: accuracy."""
    return _letters("ai2d/no-mask", parse_leading_letter, "chart and text", prompts=KIT)


def scienceqa() -> Task:
    """ScienceQA, test (arXiv 2209.09513), with and without pictures. Score: accuracy; also by subject, context and grade."""
    return _scienceqa("scienceqa/test")


def scienceqa_image() -> Task:
    """ScienceQA, those test questions that have a picture (SQA-IMG). Score: accuracy; also by subject, context and grade."""
    return _scienceqa("scienceqa/image")


def mmmu() -> Task:
    """MMMU, validation (arXiv 2311.16502): college exams with up to seven pictures. Score: accuracy over all questions."""
    return Task(
        name="mmmu/val",
        questions=Benchmark("mmmu/val"),
        prompts={"llava": "llava/letter", "official": "official/mmmu"},
        open_prompts={"llava": "llava/short-answer", "official": "official/mmmu-open"},
        extract=read_mmmu,
        metric=score_mmmu,
        guesses=letters,
        summary=lambda found: mmmu_scores([one.score for one in found], [one.category or "" for one in found]),
        max_new_tokens=REASONED_TOKENS,
        category="reasoning",
    )


def mmmu_pro_standard() -> Task:
    """MMMU-Pro, ten options (arXiv 2409.02813), direct answers. Score: accuracy; the benchmark's is the mean with `vision`."""
    return _mmmu_pro("mmmu-pro/standard", {**LLAVA, "official": "official/mmmu-pro"})


def mmmu_pro_vision() -> Task:
    """MMMU-Pro with question and options in the picture, direct answers. Score: accuracy; see `mmmu-pro/standard`."""
    return _mmmu_pro("mmmu-pro/vision", {"official": "official/mmmu-pro-vision"})


def mmbench() -> Task:
    """MMBench, dev, English (arXiv 2307.06281). Score: CircularEval, all rotations of a question must be right."""
    return _mmbench("mmbench/dev-en")


def mmbench_v11() -> Task:
    """MMBench V1.1, dev, English. Score: CircularEval, all rotations of a question must be right."""
    return _mmbench("mmbench/dev-en-v11")


def mmstar() -> Task:
    """MMStar (arXiv 2403.20330). Score: mean over its 18 detailed axes of the share that is right."""
    return _letters(
        "mmstar",
        parse_first_letter,
        "comprehensive",
        prompts=KIT,
        headline=mean_over(lambda one: f"{one.category}/{one.truth.meta.get('l2')}", "mean over 18 axes"),
        summary=lambda found: {
            "axes": mmstar_scores(
                [one.score for one in found],
                [one.category or "" for one in found],
                [str(one.truth.meta.get("l2")) for one in found],
            )
        },
    )


def seedbench_image() -> Task:
    """SEED-Bench, the 14,232 questions about pictures (arXiv 2307.16125). Score: accuracy; also by its nine types.

    The reader is that of generated answers: their first sign. The paper ranks the options by likelihood: `--rule sum`.
    """
    return _letters("seedbench/image", parse_first_letter, "comprehensive", prompts=KIT)


def realworldqa() -> Task:
    """RealWorldQA (xAI, 2024): letters, short texts and numbers. Score: accuracy, short texts without case and marks."""
    return Task(
        name="realworldqa",
        questions=Benchmark("realworldqa"),
        prompts={**LLAVA, "official": "official/realworldqa", **TEXT_ALONE},
        open_prompts={**OPEN, "official": "official/realworldqa-open"},
        extract=read_letter_or_text,
        metric=score_letter_or_text,
        guesses=letters,
        category="question answering",
    )


def blink() -> Task:
    """BLINK, validation (arXiv 2404.12390): several pictures side by side. Score: mean over its 14 subtasks."""
    return _letters(
        "blink",
        parse_choice_mmmu,
        "comprehensive",
        prompts={"official": "official/blink"},
        headline=mean_over(lambda one: one.category or "", "mean over 14 subtasks"),
        summary=lambda found: {"micro": category_scores(*_scored(found))["micro"]},
    )


def mathvista() -> Task:
    """MathVista, testmini (arXiv 2310.02255), answers extracted by rules, not by a language model. Score: accuracy."""
    return Task(
        name="mathvista/testmini",
        questions=Benchmark("mathvista/testmini"),
        prompts={"official": "official/mathvista", **LLAVA},
        open_prompts={"official": "official/mathvista-open", **OPEN},
        extract=read_mathvista,
        metric=same_text,
        guesses=lambda truth: truth.choices,
        summary=lambda found: {"extraction": "by rules", "extracted": sum(one.answer is not None for one in found)},
        max_new_tokens=REASONED_TOKENS,
        category="reasoning",
    )


def _letters(
    name: str,
    read: Callable[[str, Mapping[str, str]], str | None],
    category: str,
    prompts: Mapping[str, str] | None = None,
    headline: Headline | None = None,
    summary: Callable[[Sequence[Outcome]], Mapping[str, Any]] | None = None,
) -> Task:
    return Task(
        name=name,
        questions=Benchmark(name),
        prompts={**LLAVA, **(prompts or {}), **TEXT_ALONE},
        extract=of_choices(read),
        metric=letter_match,
        guesses=letters,
        headline=headline,
        summary=summary,
        category=category,
    )


def _scienceqa(name: str) -> Task:
    return Task(
        name=name,
        questions=Benchmark(name),
        prompts={"llava": "llava/scienceqa", **KIT, **TEXT_ALONE},
        extract=read_scienceqa,
        metric=letter_match,
        guesses=letters,
        summary=scienceqa_figures,
        category="reasoning",
    )


def _mmmu_pro(name: str, prompts: Mapping[str, str]) -> Task:
    return Task(
        name=name,
        questions=Benchmark(name),
        prompts=prompts,
        extract=read_mmmu_pro,
        metric=letter_match,
        guesses=letters,
        max_new_tokens=REASONED_TOKENS,
        category="reasoning",
    )


def _mmbench(name: str) -> Task:
    return Task(
        name=name,
        questions=Benchmark(name),
        prompts={**LLAVA, "official": "official/mmbench", **TEXT_ALONE},
        extract=of_choices(infer_choice),
        metric=letter_match,
        guesses=letters,
        headline=all_right(lambda one: one.group, "circular accuracy"),
        summary=mmbench_figures,
        group_by=own_group,
        category="comprehensive",
    )


def _scored(found: Sequence[Outcome]) -> tuple[list[float], list[str]]:
    return [one.score for one in found], [one.category or "" for one in found]
