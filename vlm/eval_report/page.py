"""The page of scores: one HTML file without scripts, outside files or addresses.

In: runs, and the questions of the gallery. Out: HTML. Questions and answers may hold anything: every text is escaped.
"""

from collections.abc import Mapping, Sequence
from html import escape

from eval.compare import Comparison
from eval.report import means, verdict
from eval.score import Result
from eval.tasks.categories import CATEGORIES
from vlm.eval_report.figures import figure_tables
from vlm.eval_report.gallery import Said, Shown
from vlm.eval_report.heat_map import draw_map, maps
from vlm.eval_report.runs import Run, less_first, task_names
from vlm.eval_report.score_bar import draw_score_bar
from vlm.eval_report.scores import HEAD, LESS_FIRST, OTHERS, by_category, cells, difference
from vlm.eval_report.style import REPORT_STYLE
from vlm.inference.style import PAGE_STYLE

# Nothing is loaded but the page's own style and pictures, whatever a text may smuggle in.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LEGEND = (
    "● score, ▬ its 95 % interval, ┆ chance, │ the best constant answer, ○ blind: the same questions without their pictures. "
    "Green: the interval lies above all that needs no picture, red: below. Unparsed answers count as wrong; failed questions are not in n."
)


def draw_page(runs: Sequence[Run], shown: Mapping[str, Sequence[Shown]], title: str = "Evaluation") -> str:
    """The whole page.

    Args:
        shown: of each task, the questions to look at.
    """
    sections = [draw_head(runs, title), draw_scores(runs), draw_figures(runs), draw_maps(runs)]
    sections += [draw_gallery(shown), draw_notes(runs)]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}{REPORT_STYLE}</style>"
    )
    foot = "<footer>Written by ConceptVLM. This file needs no network and runs no scripts.</footer>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(sections)}{foot}</main></body></html>\n'


def draw_head(runs: Sequence[Run], title: str) -> str:
    """Title and facts."""
    results = [own.result for run in runs for own in run.tasks.values()]
    facts = {
        "runs": f"{len(runs)}",
        "tasks": f"{len(task_names(runs))}",
        "answers": f"{sum(one.n for one in results):,}",
        "failed": f"{sum(one.failed for one in results):,}",
        "truncated": f"{sum(one.truncated for one in results):,}",
    }
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    names = ", ".join(f"<bdi>{escape(run.label)}</bdi>" for run in runs)
    return f'<header><h1>{escape(title)}</h1><p class="lead">{names}</p><dl class="facts">{tiles}</dl></header>'


def draw_scores(runs: Sequence[Run]) -> str:
    """A table for each category."""
    several = len(runs) > 1
    parts = [f'<section><h2>Scores</h2><p class="quiet">{escape(LEGEND)}']
    if several:
        label = f"<bdi>{escape(runs[0].label)}</bdi>"
        parts.append(f" Less the first: mean over questions less that of {label} on the same ones, with its interval.")
    parts.append("</p>")
    columns = [HEAD[0], *([HEAD[1]] if several else []), HEAD[2], "from 0 to 1"]
    columns += [*([LESS_FIRST] if several else []), *HEAD[3:]]
    head = "".join(f"<th{' class=run' if name == HEAD[1] else ''}>{escape(name)}</th>" for name in columns)
    for category, names in by_category(runs).items():
        rows = "".join(draw_task(runs, name) for name in names)
        about = {**CATEGORIES, **OTHERS}[category]
        parts.append(f'<h3>{escape(category)} <small class="quiet">{escape(about)}</small></h3>')
        parts.append(f'<div class="card wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>')
    return f"{''.join(parts)}</section>"


def draw_task(runs: Sequence[Run], name: str) -> str:
    """A task's rows: one for each run."""
    having = [run for run in runs if name in run.tasks]
    rows = []
    for place, run in enumerate(having):
        result = run.tasks[name].result
        task, label, score, interval, *rest = cells(name, run, result)
        lines = [f"<td>{escape(task) if place == 0 else ''}</td>"]
        if len(runs) > 1:
            lines.append(f'<td class="run"><bdi>{escape(label)}</bdi></td>')
        lines.append(f'<td class="{verdict(result)}"><b>{score}</b></td><td>{draw_bar(result)}</td>')
        if len(runs) > 1:
            lines.append(draw_difference(less_first(runs, run, name)))
        *plain, truncated, failed = rest
        lines += [f'<td class="quiet">{text}</td>' for text in (interval, *plain)]
        lines += [f'<td class="{"quiet" if text == "0" else "bad"}">{text}</td>' for text in (truncated, failed)]
        more = " ".join(kind for kind, told in (("more", place > 0), ("with-more", place < len(having) - 1)) if told)
        rows.append(f'<tr class="{more}">{"".join(lines)}</tr>')
    return "".join(rows)


def draw_difference(compared: Comparison | None) -> str:
    """The cell of a difference, coloured where its interval leaves out 0."""
    kind = "quiet"
    if compared is not None and (compared.low > 0 or compared.high < 0):
        kind = "better" if compared.low > 0 else "worse"
    return f'<td class="{kind}">{escape(difference(compared))}</td>'


def draw_bar(result: Result) -> str:
    """Score, interval, chance, the best constant answer and the blind score."""
    return draw_score_bar(result.score, result.low, result.high, result.chance, result.blind, result.majority)


def draw_figures(runs: Sequence[Run]) -> str:
    """What the benchmarks themselves report, folded up."""
    blocks = []
    for task, labels, rows in figure_tables(runs):
        head = "".join(f"<th><bdi>{escape(label)}</bdi></th>" for label in labels) if len(runs) > 1 else "<th></th>"
        lines = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
        table = f"<table><thead><tr><th>figure</th>{head}</tr></thead><tbody>{lines}</tbody></table>"
        blocks.append(f'<details><summary>{escape(task)}</summary><div class="card wide">{table}</div></details>')
    if not blocks:
        return ""
    about = (
        "What each benchmark reports beside its score, by the rules of its own: categories, F1, points, errors by kind."
    )
    return f'<section><h2>Figures of the benchmarks</h2><p class="quiet">{about}</p>{"".join(blocks)}</section>'


def draw_maps(runs: Sequence[Run]) -> str:
    """Heat maps of long context; nothing where none was asked."""
    found = [(run.label, maps(run)) for run in runs]
    kinds = dict.fromkeys(kind for _, own in found for kind in own)
    figures = [
        f'<div class="card">{draw_map(kind, label, own[kind])}</div>'
        for kind in kinds
        for label, own in found
        if kind in own
    ]
    if not figures:
        return ""
    about = (
        "Mean score by length of prompt and answer in tokens (across) and by depth of what is asked for (down: 0 % is the "
        "beginning of the context), with the number of questions."
    )
    return f'<section><h2>Long context</h2><p class="quiet">{about}</p><div class="maps">{"".join(figures)}</div></section>'


def draw_gallery(shown: Mapping[str, Sequence[Shown]]) -> str:
    """The answers to look at, by task."""
    blocks = [
        f'<details open><summary>{escape(name)}</summary><div class="answers">{"".join(map(draw_card, cards))}</div></details>'
        for name, cards in shown.items()
        if cards
    ]
    if not blocks:
        return ""
    about = "Right, partly right, wrong and unparsed ones, as the first run answered them, drawn by a fixed hash of their ids."
    return f'<section><h2>Answers</h2><p class="quiet">{about}</p>{"".join(blocks)}</section>'


def draw_card(one: Shown) -> str:
    """One question, its pictures, what each run said and what is true."""
    pictures = "".join(f'<img src="{escape(uri)}" alt="">' for uri in one.pictures)
    more = f'<small class="quiet">and {one.more_pictures} more</small>' if one.more_pictures else ""
    shots = f'<div class="shots">{pictures}{more}</div>' if pictures or more else ""
    asked = f'<p class="asked-words"><bdi>{escape(one.text)}</bdi></p>' if one.text else (
        '<p class="quiet">the benchmark is not here, or asks otherwise now; the question is not shown</p>'
    )  # fmt: skip
    said = "".join(draw_said(each, len(one.said) > 1) for each in one.said)
    return (
        f'<article class="card"><div class="task"><bdi>{escape(one.id)}</bdi></div>{shots}{asked}{said}'
        f'<p class="truth">truth: <bdi>{escape(one.truth)}</bdi></p></article>'
    )


def draw_said(said: Said, several: bool) -> str:
    """What one run answered."""
    mark = {"right": "✓ right", "in part": f"≈ {said.score:.2f}", "wrong": "✗ wrong", "unparsed": "∅ unparsed"}[
        said.kind
    ]
    cut = ", cut off" if said.truncated else ""
    whose = f"<bdi>{escape(said.label)}</bdi>: " if several else ""
    text = f"<bdi>{escape(said.text)}</bdi>" if said.text.strip() else "<i>(nothing)</i>"
    kind = said.kind if said.kind in ("right", "wrong") else "other"
    return f'<p class="said-line {kind}"><small>{whose}{mark}{cut}</small>\n{text}</p>'


def draw_notes(runs: Sequence[Run]) -> str:
    """Means of parts; what is not on the page, and why."""
    notes = []
    for run in runs:
        for name, (value, parts) in means({task: own.result for task, own in run.tasks.items()}).items():
            notes.append(f"<bdi>{escape(run.label)}</bdi>, {name}: {value:.3f}, the mean of {' and '.join(parts)}")
        for name, own in run.tasks.items():
            if own.why:
                notes.append(
                    f"<bdi>{escape(run.label)}</bdi>, {escape(name)}: answers are not shown: {escape(own.why)}"
                )
            skipped = own.result.details.get("skipped", ())
            if skipped:
                more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
                notes.append(f"<bdi>{escape(run.label)}</bdi>, {escape(name)}: failed: {escape(str(skipped[0]))}{more}")
    if not notes:
        return ""
    items = "".join(f'<li class="quiet">{note}</li>' for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>"
