"""The scores of runs as JSON, and as Markdown tables by category."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from eval.compare import Comparison
from eval.report import means
from eval.score import Result
from eval.tasks.categories import CATEGORIES
from vlm.eval_report.figures import figure_tables
from vlm.eval_report.runs import Run, by_length, category_of, less_first, task_names

HEAD = ("task", "run", "score", "95 % interval", "n", "chance", "constant", "blind", "unparsed", "truncated", "failed")
LESS_FIRST = "less the first"
OTHERS = {"long context": "one task at one length", "other": "tasks that stand for none of these"}


def by_category(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The names of the tasks by category, in the order of the categories; those without tasks are left out."""
    members: dict[str, list[str]] = {name: [] for name in (*CATEGORIES, *OTHERS)}
    for name in task_names(runs):
        own = category_of(runs, name)
        if own not in CATEGORIES:
            own = "long context" if name.startswith("long/") else "other"
        members[own].append(name)
    return {category: sorted(names, key=by_length) for category, names in members.items() if names}


def cells(name: str, run: Run, result: Result) -> tuple[str, ...]:
    """What stands in a row, in the order of HEAD."""
    return (
        name,
        run.label,
        f"{result.score:.3f}",
        f"[{result.low:.3f}, {result.high:.3f}]",
        f"{result.n:,}",
        f"{result.chance:.3f}",
        f"{result.majority:.3f}",
        blind(result),
        f"{result.unparsed:.1%}",
        str(result.truncated),
        str(result.failed),
    )


def blind(result: Result) -> str:
    """The score without pictures, with the number of questions where they were a part only."""
    if result.blind is None:
        return "-"
    asked = result.details.get("blind", {}).get("n", result.n)
    return f"{result.blind:.3f}" + ("" if asked == result.n else f" (n {asked:,})")


def difference(compared: Comparison | None) -> str:
    """A difference with its interval, marked where it is none of chance."""
    if compared is None:
        return "-"
    sure = " *" if compared.low > 0 or compared.high < 0 else ""
    return f"{compared.difference:+.3f} [{compared.low:+.3f}, {compared.high:+.3f}]{sure}"


def markdown(runs: Sequence[Run]) -> str:
    """Tables by category; a * marks differences whose interval leaves out 0."""
    several = len(runs) > 1
    head = (*HEAD, LESS_FIRST) if several else HEAD
    lines = ["# Evaluation", ""]
    for category, names in by_category(runs).items():
        about = {**CATEGORIES, **OTHERS}[category]
        lines += [f"## {category}", "", f"{about}.", "", row(head), row(["---"] * 2 + ["---:"] * (len(head) - 2))]
        for name in names:
            for run in runs:
                if name in run.tasks:
                    told = cells(name, run, run.tasks[name].result)
                    lines.append(row([*told, difference(less_first(runs, run, name))] if several else told))
        lines.append("")
    for run in runs:
        for name, (value, parts) in means({task: own.result for task, own in run.tasks.items()}).items():
            lines += [f"{name}, {row_text(run.label)}: {value:.3f}, the mean of {' and '.join(parts)}.", ""]
    if several:
        lines += [f"{LESS_FIRST}: mean over questions, paired, with the 95 % interval; * where that leaves out 0.", ""]
    for place, (task, labels, rows) in enumerate(figure_tables(runs)):
        lines += ["## figures of the benchmarks", ""] if place == 0 else []
        columns = (task, *(labels if several else ["value"]))
        lines += [row(columns), row(["---"] + ["---:"] * (len(columns) - 1)), *map(row, rows), ""]
    return "\n".join(lines)


def row(texts: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(row_text, texts))} |"


def row_text(text: str) -> str:
    """A text that can neither end its cell nor be taken for HTML."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(safe.split())


def scores_json(runs: Sequence[Run]) -> str:
    """By run and task: all of the result but its details, the category, and the difference to the first run."""
    told: dict[str, Any] = {}
    for run in runs:
        told[run.label] = {}
        for name, own in run.tasks.items():
            figures = {key: value for key, value in asdict(own.result).items() if key != "details"}
            told[run.label][name] = {"category": category_of(runs, name), **figures}
            if (compared := less_first(runs, run, name)) is not None:
                told[run.label][name]["less_first"] = {
                    "difference": compared.difference,
                    "low": compared.low,
                    "high": compared.high,
                }
    return json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
