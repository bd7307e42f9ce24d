"""The page of a comparison: one HTML file that needs nothing else and can be shown to a stranger.

In: rows, differences to the first encoder, the config. Out: a page without scripts, outside files or addresses.
"""

from collections.abc import Mapping, Sequence
from html import escape

import yaml

from eval.compare import Comparison
from vlm.encoder_comparison.lineup import Contender
from vlm.encoder_comparison.plot import Mark, draw_scores
from vlm.encoder_comparison.table import (
    HEAD,
    NOTES,
    Row,
    Score,
    difference_table,
    table,
    told,
)
from vlm.eval_report.score_bar import draw_score_bar
from vlm.inference.style import PAGE_STYLE

STYLE = """
table { border-collapse:collapse; width:100%; font-size:.84rem; font-variant-numeric:tabular-nums; }
th { font-weight:600; text-align:right; padding:6px 6px; border-bottom:1px solid var(--rule); vertical-align:bottom; }
td { text-align:right; padding:7px 6px; border-bottom:1px solid var(--rule); white-space:nowrap; }
th:first-child, td:first-child { text-align:left; padding-left:0; white-space:normal; min-width:7.5em; overflow-wrap:anywhere; }
tr:last-child td { border-bottom:0; }
td svg { display:block; min-width:150px; width:100%; height:20px; }
h3 { font-size:1rem; margin:0 0 6px; }
.tasks { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,470px),1fr)); gap:18px; }
.card + .card { margin-top:0; }
pre { margin:0; font-size:.82rem; line-height:1.45; overflow-x:auto; }
summary { cursor:pointer; font-weight:600; }
details + details { margin-top:10px; }
"""


def draw_page(
    found: Sequence[Row],
    less_first: Mapping[str, Sequence[Comparison]],
    entries: Sequence[Contender],
    config: str,
    facts: Mapping[str, str],
) -> str:
    """The whole page as HTML.

    Args:
        less_first: of each encoder but the first, its differences to the first by task.
        config: the text of the config that all share.
        facts: what stands at the top: name -> value, both as they are to be read.
    """
    title = "Encoders side by side"
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    names = list(found[0].scores)
    cards = "".join(draw_task(name, [(row.label, row.scores[name]) for row in found]) for name in names)
    sections = [
        f'<header><h1>{title}</h1><p class="lead">The same data, steps, seeds and image vectors for each: only what looks '
        f'at the picture differs.</p><dl class="facts">{tiles}</dl></header>',
        '<section><h2>Score and cost</h2><p class="quiet">What an encoder brings the model, against what it takes.</p>'
        f'<div class="charts">{"".join(f"""<div class="card">{chart}</div>""" for chart in charts(found))}</div></section>',
        f'<section><h2>All figures</h2><p class="quiet">{escape(NOTES)}</p>'
        f'<div class="card wide">{html_table(HEAD, table(found))}</div></section>',
        '<section><h2>Task by task</h2><p class="quiet">● score with its 95 % interval, over questions and, where there '
        "are several, seeds; ┆ chance; ○ blind: the same questions without their pictures.</p>"
        f'<div class="tasks">{cards}</div></section>',
        f'<section><h2>Beside the first</h2><p class="quiet">Scores less those of {escape(found[0].label)} on the same '
        "questions, with the 95 % interval of the difference.</p>"
        f'<div class="card wide">{html_table(*difference_table(found[0].label, less_first))}</div></section>',
        f'<section><h2>Settings</h2><p class="quiet">The config of all, and what each encoder adds to it.</p>'
        f'<div class="card">{settings(entries, config)}</div></section>',
        "<footer>Written by ConceptVLM. This file needs no network and runs no scripts.</footer>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{PAGE_STYLE}{STYLE}</style>'
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(sections)}</main></body></html>\n'


def charts(found: Sequence[Row]) -> list[str]:
    """The score against FLOPs, and against speed; without the first where an encoder has no FLOPs to count."""
    kinds = [
        ("Score against FLOPs", "FLOPs of the encoder for a picture", [row.cost.flops for row in found]),
        ("Score against speed", "pictures a second, one CPU thread", [row.cost.pictures_per_s for row in found]),
    ]
    return [
        draw_scores(
            title,
            x_label,
            [
                Mark(row.label, x, row.mean.score, row.mean.low, row.mean.high, not row.cost.learned)
                for row, x in zip(found, xs, strict=True)
            ],
        )
        for title, x_label, xs in kinds
        if min(xs) > 0
    ]


def draw_task(name: str, scores: Sequence[tuple[str, Score]]) -> str:
    """A card: one line for each encoder, its score drawn from 0 to 1."""
    lines = "".join(
        f"<tr><td>{escape(label)}</td><td><b>{score.score:.3f}</b></td><td>{bar(score)}</td>"
        f'<td class="quiet">{told(score.blind)}</td></tr>'
        for label, score in scores
    )
    head = "<tr><th></th><th>score</th><th></th><th>blind</th></tr>"
    return f'<div class="card wide"><h3>{escape(name)}</h3><table>{head}{lines}</table></div>'


def bar(score: Score) -> str:
    """Score, interval, chance and blind score."""
    return draw_score_bar(score.score, score.low, score.high, score.chance, score.blind)


def html_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Plain cells."""

    def cells(kind: str, line: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in line) + "</tr>"

    return f"<table>{cells('th', head)}{''.join(cells('td', line) for line in lines)}</table>"


def settings(entries: Sequence[Contender], config: str) -> str:
    """The config and the overlays, each to be opened."""
    texts = {"the config of all": config}
    texts |= {one.label: yaml.safe_dump(one.overlay, sort_keys=False) for one in entries}
    return "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in texts.items()
    )
