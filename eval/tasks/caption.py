"""Captions: COCO (Karpathy's test split) and NoCaps, by CIDEr over the whole set; BLEU and ROUGE-L beside it.

Figures are those of pycocoevalcap (eval/caption_scores.py). Texts are cut into words by our `plain` tokenizer; published figures come from
Stanford's, which needs Java: ask for it by CONCEPTVLM_CAPTION_TOKENIZER=ptb, METEOR then comes too. The result names the tokenizer.
The interval holds the words' weights fixed, which are those of all references, and draws pictures. A blind score is of its own, smaller set
of references, so set it beside the score with care. Chance and majority are what one sentence gets that is said of every picture.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from eval.caption_scores import TOKENIZERS, caption_scores, require_scorers
from eval.headline import Headline
from eval.metrics import best_token_f1
from eval.outcome import Outcome
from eval.task import Task
from eval.tasks.shards import Benchmark
from eval.tasks.vqa import WHOLE
from eval.truth import Truth, against_answers

TOKENIZER = "CONCEPTVLM_CAPTION_TOKENIZER"
SAID_OF_ALL = "a man standing in front of a building"
LARGEST_CIDER = 10.0
DOMAINS = {"in-domain": "in", "near-domain": "near", "out-domain": "out"}


def coco_caption() -> Task:
    """COCO captions, Karpathy's test split (arXiv 1504.00325). Score: CIDEr-D, as a share of its largest value, 1000."""
    return _caption("coco-caption/karpathy")


def nocaps() -> Task:
    """NoCaps, validation (arXiv 1812.08658). Score: CIDEr-D, as a share of 1000; each domain by its own references."""
    return _caption("nocaps/val")


def tokenizer_asked_for() -> str:
    """By the environment variable CONCEPTVLM_CAPTION_TOKENIZER: "plain" (default) or "ptb".

    Raises:
        ValueError: it is another.
    """
    name = os.environ.get(TOKENIZER) or "plain"
    if name not in TOKENIZERS:
        raise ValueError(f"{TOKENIZER} is {name!r}; it must be plain (ours, in Python) or ptb (Stanford's, needs Java)")
    return name


@dataclass(frozen=True)
class CaptionBenchmark(Benchmark):
    """A benchmark that also wants its scorers there before a model writes anything."""

    tokenizer: str = "plain"

    def require(self) -> None:
        super().require()
        require_scorers(_metrics(self.tokenizer), self.tokenizer)


def _caption(name: str) -> Task:
    tokenizer = tokenizer_asked_for()

    def sums(found: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
        each = _scores(found, ("CIDEr",), tokenizer)["by_caption"]["CIDEr"]
        return {one.group: (value, 1.0) for one, value in zip(found, each, strict=True)}

    def summary(found: Sequence[Outcome]) -> dict[str, Any]:
        sets = {"overall": list(found)}
        sets |= {short: [one for one in found if one.truth.meta.get("domain") == d] for d, short in DOMAINS.items()}
        figures = {which: _scores(some, _metrics(tokenizer), tokenizer) for which, some in sets.items() if some}
        kept = {which: {k: v for k, v in one.items() if k != "by_caption"} for which, one in figures.items()}
        return {"tokenizer": tokenizer, "captions": kept}

    return Task(
        name=name,
        questions=CaptionBenchmark(name, tokenizer=tokenizer),
        prompts={"llava": "llava/caption"},
        extract=WHOLE,
        metric=against_answers(best_token_f1),
        guesses=_said_of_all,
        headline=Headline(
            f"CIDEr-D x 100, tokenizer {tokenizer}",
            sums,
            lambda total: float(total[0] / total[1] / LARGEST_CIDER),
            scale=100 * LARGEST_CIDER,
        ),
        summary=summary,
        max_new_tokens=64,
        category="description",
    )


def _said_of_all(truth: Truth) -> tuple[str, ...]:
    return (SAID_OF_ALL,)


def _metrics(tokenizer: str) -> tuple[str, ...]:
    return ("CIDEr", "BLEU", "ROUGE-L", *(("METEOR",) if tokenizer == "ptb" else ()))


def _scores(found: Sequence[Outcome], metrics: tuple[str, ...], tokenizer: str) -> dict[str, Any]:
    return _scores_of(tuple((one.id, one.answer or "", one.truth.answers) for one in found), metrics, tokenizer)


@lru_cache(maxsize=16)  # headline, interval and baselines ask for the same set many times
def _scores_of(
    rows: tuple[tuple[str, str, tuple[str, ...]], ...], metrics: tuple[str, ...], tokenizer: str
) -> dict[str, Any]:
    said, right = {name: text for name, text, _ in rows}, {name: texts for name, _, texts in rows}
    return caption_scores(said, right, metrics, "ptb" if tokenizer == "ptb" else "plain")
