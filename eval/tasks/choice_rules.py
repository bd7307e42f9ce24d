"""How the benchmarks of choices read and score one answer, and their further figures (eval/tasks/choice.py)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.answers import (
    extract_mathvista,
    match_open_mmmu,
    normalize_mathvista,
    parse_choice_mmmu,
    parse_leading_letter,
    parse_open_mmmu,
    parse_scienceqa,
)
from eval.group_scores import circular_scores
from eval.metrics import gqa_accuracy
from eval.outcome import Outcome
from eval.truth import Extract, Truth, letter_match


def of_choices(read: Callable[[str, Mapping[str, str]], str | None]) -> Extract:
    """A reader of letters, as a task takes it."""

    def extract(text: str, truth: Truth) -> str | None:
        return read(text, truth.lettered)

    extract.__name__ = getattr(read, "__name__", "read")
    return extract


def read_mmmu(text: str, truth: Truth) -> str | None:
    """A letter, or for an open question the whole response, from which `score_mmmu` takes all that may be the answer."""
    if truth.choices:
        return parse_choice_mmmu(text, truth.lettered)
    return text.strip() or None


def read_mmmu_pro(text: str, truth: Truth) -> str | None:
    """A letter, by MMMU-Pro's own variant of MMMU's reader."""
    return parse_choice_mmmu(text, truth.lettered, "pro")


def read_scienceqa(text: str, truth: Truth) -> str | None:
    """A letter, by LLaVA's reader, blanks at both ends aside."""
    return parse_scienceqa(text.strip(), len(truth.choices))


def same_text(answer: str, truth: Truth) -> float:
    """1 if the answer is the right text, blanks at both ends aside."""
    return float(answer.strip() == truth.targets[0].strip())


def score_mmmu(answer: str, truth: Truth) -> float:
    """The right letter, or an open answer found in the response."""
    return letter_match(answer, truth) if truth.choices else match_open_mmmu(parse_open_mmmu(answer), truth.answers)


def read_letter_or_text(text: str, truth: Truth) -> str | None:
    """A letter at the beginning, or for an open question the response."""
    return parse_leading_letter(text.strip(), truth.lettered) if truth.choices else text.strip() or None


def score_letter_or_text(answer: str, truth: Truth) -> float:
    """The right letter, or the right text without regard to case and punctuation."""
    return letter_match(answer, truth) if truth.choices else gqa_accuracy(answer, truth.targets[0])


def read_mathvista(text: str, truth: Truth) -> str | None:
    """The option's text, or the number or text in the form of the right one; None where the rules find none."""
    kind, form = truth.meta["question_type"], truth.meta["answer_type"]
    found = extract_mathvista(text, truth.choices, kind, form)
    if found is None:
        return None
    answer = normalize_mathvista(found, truth.choices, kind, form, truth.meta.get("precision"))
    return None if answer is None else str(answer)


def scienceqa_figures(found: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracy by the context a question comes with, and by grade (table 4 of the paper); by subject: `by_category`."""
    kinds = {
        "text": lambda meta: bool(meta.get("hint")),
        "image": lambda meta: meta["image"],
        "none": lambda meta: not meta.get("hint") and not meta["image"],
        "grades 1-6": lambda meta: meta["grade"] in range(1, 7),
        "grades 7-12": lambda meta: meta["grade"] in range(7, 13),
    }
    members = {name: [one.score for one in found if belongs(one.truth.meta)] for name, belongs in kinds.items()}
    return {"by_context_and_grade": {name: sum(some) / len(some) for name, some in members.items() if some}}


def mmbench_figures(found: Sequence[Outcome]) -> dict[str, Any]:
    """Circular and vanilla accuracy, and circular by category; questions whose first form failed are left out."""
    firsts = {one.truth.group for one in found if str(one.truth.meta["index"]) == one.truth.group}
    whole = [one for one in found if one.truth.group in firsts]
    categories = {
        "category": [one.category or "" for one in whole],
        "l2-category": [str(one.truth.meta.get("l2") or "") for one in whole],
    }
    return {
        "circular": circular_scores(
            [one.truth.meta["index"] for one in whole], [one.score for one in whole], categories
        )
    }
