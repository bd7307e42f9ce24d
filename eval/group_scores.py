"""Scores that need more than one question: benchmarks that pair, group or weigh their questions.

In: one value for each question and what it belongs to, as equally long sequences. Out: plain dictionaries; shares lie
in [0, 1], except MME's points, which are out of 200 for each task. Questions missing from a group are an error where
the benchmark says how many there must be. Sources stand at each function; docs/metrics.md says where harnesses differ.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

from eval.metrics.figures import yes_no_figures

MME_PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CIRCULAR_STEP = 1_000_000  # MMBench: index % 1e6 names the question, the rest its rotation


def category_scores(scores: Sequence[float | int], categories: Sequence[Hashable]) -> dict[str, Any]:
    """Mean over all questions ("micro"), mean over the categories' means ("macro"), and each category's mean.

    BLINK (arXiv 2404.12390) reports macro over its 14 subtasks, SEED-Bench and MMMU micro.
    """
    members = _members(scores, categories)
    means = {name: fmean(values) for name, values in members.items()}
    return {"micro": fmean(scores), "macro": fmean(means.values()), "by_category": means}


def pope_scores(
    answers: Sequence[str | None], truths: Sequence[str], categories: Sequence[str] | None = None
) -> dict[str, Any]:
    """POPE (arXiv 2305.10355): accuracy, and precision, recall, F1 of "yes"; the yes-rate is that of the answers.

    Args:
        answers: "yes", "no", or anything else for an answer that is neither; it is wrong, and not a yes.
        truths: "yes" or "no".
        categories: "random", "popular", "adversarial" of each; then figures for each too, and "mean_f1", the mean of
            their F1, which papers report.
    """
    figures: dict[str, Any] = _pope(answers, truths)
    if categories is not None:
        members = _members(list(zip(answers, truths, strict=True)), categories)
        figures["by_category"] = {name: _pope(*zip(*pairs, strict=True)) for name, pairs in members.items()}
        figures["mean_f1"] = fmean(one["f1"] for one in figures["by_category"].values())
    return figures


def _pope(answers: Sequence[str | None], truths: Sequence[str]) -> dict[str, float]:
    figures = yes_no_figures(answers, truths)
    right = [said is not None and said.lower() == true.lower() for said, true in zip(answers, truths, strict=True)]
    return {"accuracy": fmean(right), **figures}


def mme_scores(hits: Sequence[float | int], tasks: Sequence[str], images: Sequence[Hashable]) -> dict[str, Any]:
    """MME (arXiv 2306.13394): points of each of the 14 tasks, and of perception (of 2000) and cognition (of 800).

    Every picture has two questions. A task's points are 100 * (share of questions right + share of pictures with both
    right). The totals are sums over the tasks that are there; a mean over tasks is not a figure of MME.

    Args:
        hits: 1 where the answer was right.
        tasks: the task of each question.
        images: what pairs the two questions of one picture, within its task.

    Raises:
        ValueError: a picture without exactly two questions.
    """
    by_task: dict[str, dict[str, float]] = {}
    for task, rows in _members(list(zip(hits, images, strict=True)), tasks).items():
        pairs = _members([hit for hit, _ in rows], [image for _, image in rows])
        odd = next((image for image, pair in pairs.items() if len(pair) != 2), None)
        if odd is not None:
            raise ValueError(f"MME pairs two questions of one picture; task {task} has {len(pairs[odd])} for {odd!r}")
        accuracy = fmean(hit for hit, _ in rows)
        both = fmean(all(pair) for pair in pairs.values())
        by_task[str(task)] = {"accuracy": accuracy, "accuracy_plus": both, "score": 100 * (accuracy + both)}
    return {
        "by_task": by_task,
        "perception": sum(by_task[name]["score"] for name in MME_PERCEPTION if name in by_task),
        "cognition": sum(by_task[name]["score"] for name in MME_COGNITION if name in by_task),
    }


def circular_scores(
    indices: Sequence[int], hits: Sequence[float | int], categories: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Circular evaluation of MMBench (arXiv 2307.06281): a question is right only if all its rotations are.

    Args:
        indices: of each row; `index % 1_000_000` is the question, and the row below 1,000,000 is its first form.
        hits: 1 where the row was answered right.
        categories: kinds of category, for example {"category": ..., "l2-category": ...}, one value for each row; the
            first form's value counts.

    Returns:
        "circular": share of questions with all rotations right; "vanilla": share of first forms right; "questions":
        their number; and for each kind the circular share of each category.

    Raises:
        ValueError: a question without its first form.
    """
    groups = _members(list(range(len(indices))), [index % CIRCULAR_STEP for index in indices])
    first: dict[int, int] = {}
    for question, rows in groups.items():
        place = next((row for row in rows if indices[row] == question), None)
        if place is None:
            raise ValueError(
                f"circular evaluation: rows {[indices[row] for row in rows]} lack the first form, index {question}; "
                "score whole groups, not a subset of rows"
            )
        first[question] = place
    right = {question: float(all(hits[row] for row in rows)) for question, rows in groups.items()}
    figures: dict[str, Any] = {
        "circular": fmean(right.values()),
        "vanilla": fmean(float(bool(hits[place])) for place in first.values()),
        "questions": len(right),
    }
    for kind, names in (categories or {}).items():
        _check_lengths(indices, names)
        members = _members(list(right.values()), [names[first[question]] for question in right])
        figures[kind] = {name: fmean(values) for name, values in members.items()}
    return figures


def hallusion_scores(
    hits: Sequence[float | int],
    categories: Sequence[str],
    subcategories: Sequence[str],
    sets: Sequence[Hashable],
    figures: Sequence[Hashable],
    questions: Sequence[Hashable],
) -> dict[str, float]:
    """HallusionBench (arXiv 2310.14566): aAcc over questions, qAcc over question groups, fAcc over figures.

    qAcc: one question asked about several figures, all right. fAcc: all questions about one figure right; figure 0 of
    category "VS" is no picture and is left out there, as in the official code (VLMEvalKit keeps it).
    """
    keys = list(zip(categories, subcategories, sets, strict=True))
    by_question = _members(hits, list(zip(keys, questions, strict=True)))
    by_figure = _members(hits, list(zip(keys, figures, strict=True)))
    shown = {key: values for key, values in by_figure.items() if not (key[0][0] == "VS" and str(key[1]) == "0")}
    return {
        "aAcc": fmean(hits),
        "qAcc": fmean(all(values) for values in by_question.values()),
        "fAcc": fmean(all(values) for values in shown.values()) if shown else 0.0,
    }


def mmstar_scores(
    hits: Sequence[float | int], categories: Sequence[str], l2_categories: Sequence[str]
) -> dict[str, Any]:
    """MMStar (arXiv 2403.20330): each of six categories is the mean of its L2 categories, the average that of all 18."""
    l2 = _members(hits, list(zip(categories, l2_categories, strict=True)))
    means = {key: fmean(values) for key, values in l2.items()}
    top = _members(list(means.values()), [category for category, _ in means])
    return {
        "average": fmean(means.values()),
        "by_category": {name: fmean(values) for name, values in top.items()},
        "by_l2_category": {f"{category}/{name}": value for (category, name), value in means.items()},
    }


def needle_scores(
    scores: Sequence[float | int],
    lengths: Sequence[float | int],
    depths: Sequence[float | int],
    length_bins: Sequence[float | int] = (1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000, 40000, 48000, 64000),
    depth_step: float | int = 0.2,
) -> dict[str, Any]:
    """Mean score in each cell of context length and needle depth, as MM-NIAH draws them (arXiv 2406.07230).

    Args:
        scores: of each question, in [0, 1].
        lengths: context lengths in tokens; a bin begins at its edge, and what is below the first edge is left out.
        depths: place of the needle in [0, 1]; of several needles, the mean.
        length_bins: lower edges.
        depth_step: height of a row.

    Returns:
        "grid": rows by depth, columns by length, None in cells without questions; "by_length": the mean over a
        column's cells (0 for an empty cell, as the official script counts it); "counts" as "grid"; "left_out".
    """
    rows = round(1 / depth_step)
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    left_out = 0
    for score, length, depth in zip(scores, lengths, depths, strict=True):
        if not 0 <= depth <= 1:
            raise ValueError(f"the depth of a needle is a share of the context in [0, 1], got {depth}")
        column = sum(length >= edge for edge in length_bins) - 1
        left_out += column < 0
        if column >= 0:
            cells[min(int(depth / depth_step), rows - 1), column].append(score)
    columns = range(len(length_bins))
    return {
        "grid": [[fmean(cells[r, c]) if (r, c) in cells else None for c in columns] for r in range(rows)],
        "counts": [[len(cells[r, c]) if (r, c) in cells else 0 for c in columns] for r in range(rows)],
        "by_length": [fmean(fmean(cells[r, c]) if (r, c) in cells else 0.0 for r in range(rows)) for c in columns],
        "left_out": left_out,
    }


def _members(values: Sequence[Any], groups: Sequence[Any]) -> dict[Any, list[Any]]:
    _check_lengths(values, groups)
    members: dict[Any, list[Any]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    return dict(members)


def _check_lengths(values: Sequence[Any], groups: Sequence[Any]) -> None:
    if not values:
        raise ValueError("a group score of no questions is not defined")
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} scores but {len(groups)} groups; each question needs one of both")
