"""What a benchmark itself reports beside its score: F1 of POPE, points of MME, bits per byte, scores by category.

In: a result. Out: names and values, as the task's own summary and the score's details have them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.score import Result
from vlm.eval_report.runs import Run, task_names

# Of every result, or shown elsewhere on the page.
_ELSEWHERE = {
    "mode",
    "rule",
    "interval",
    "prompt",
    "open_prompt",
    "prompt_hash",
    "questions_hash",
    "answerer",
    "seconds",
}
_ELSEWHERE |= {"skipped", "category", "blind", "by_depth", "headline", "mean_over_questions", "by_category"}


def own_figures(result: Result) -> dict[str, str]:
    """Names, with " / " between the levels, and values, ready to be shown."""
    details = result.details
    found: dict[str, str] = {}
    if headline := details.get("headline"):
        scale = "" if headline["scale"] == 1 else f" of {headline['scale']:g}"
        found[str(headline["name"])] = f"{number(headline['value'])}{scale}"
        found["mean over questions"] = number(details["mean_over_questions"])
    for name, value in details.items():
        if name not in _ELSEWHERE and not (name == "ties" and not value):
            found |= flattened((name.replace("_", " "),), value)
    for name, own in details.get("by_category", {}).items():
        found[f"category {name}"] = f"{number(own['score'])} (n {own['n']:,})"
    return found


def flattened(path: Sequence[str], value: Any) -> dict[str, str]:
    """The numbers and short texts below a figure; lists are left to result.json."""
    if isinstance(value, Mapping):
        if set(value) == {"score", "n"}:
            return {" / ".join(path): f"{number(value['score'])} (n {value['n']:,})"}
        return {
            name: text
            for key, below in value.items()
            for name, text in flattened((*path, str(key).replace("_", " ")), below).items()
        }
    if isinstance(value, str):
        return {" / ".join(path): value}
    if isinstance(value, int | float):
        return {" / ".join(path): number(value)}
    return {}


def number(value: int | float) -> str:
    """Counts as they are, shares with three decimals, points with one."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def figure_tables(runs: Sequence[Run]) -> Iterator[tuple[str, list[str], list[tuple[str, ...]]]]:
    """For each task with figures of its own: its name, the runs' labels, and rows of a figure and its value in each run."""
    for task in task_names(runs):
        having = [run for run in runs if task in run.tasks]
        columns = [own_figures(run.tasks[task].result) for run in having]
        names = list(dict.fromkeys(name for column in columns for name in column))
        if names:
            rows = [(name, *(column.get(name, "-") for column in columns)) for name in names]
            yield task, [run.label for run in having], rows
