"""The report of a run: one HTML file that needs nothing else and can be shown to a stranger.

In: facts, curves, the score table (an HTML fragment of eval/report.py) and examples. Out: a page without scripts,
outside files or addresses.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from eval.predictions import write_atomically
from vlm.inference.curves import Series, draw_compression, draw_loss
from vlm.inference.draw_concepts import draw_picture, draw_words, legend
from vlm.inference.examples import ExampleView
from vlm.inference.style import CONCEPT_STYLE, PAGE_STYLE


def write_report(
    path: str | Path,
    *,
    title: str,
    curves: Mapping[str, Series],
    scores_html: str,
    examples: Sequence[ExampleView],
    facts: Mapping[str, str],
    target_compression: float | None = None,
    lead: str = "",
) -> None:
    """Write the page; the file appears only when it is complete.

    Args:
        curves: as `read_curves` gives them.
        facts: what stands at the top: name -> value, both as they are to be read.
        target_compression: tokens per concept that training aimed at.
        lead: one sentence under the title.
    """
    write_atomically(Path(path), draw_page(title, lead, facts, curves, target_compression, scores_html, examples))


def draw_page(
    title: str,
    lead: str,
    facts: Mapping[str, str],
    curves: Mapping[str, Series],
    target_compression: float | None,
    scores_html: str,
    examples: Sequence[ExampleView],
) -> str:
    """The whole page as HTML."""
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
    charts = "".join(
        f'<div class="card">{chart}</div>'
        for chart in (draw_loss(curves), draw_compression(curves, target_compression))
    )
    cards = "".join(draw_example(example) for example in examples)
    opening = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{PAGE_STYLE}{CONCEPT_STYLE}</style>"
    )
    sections = [
        f'<header><h1>{escape(title)}</h1>{opening}<dl class="facts">{tiles}</dl></header>',
        '<section><h2>Scores</h2><p class="quiet">Each with its 95 % interval, and what can be had without looking: '
        "chance, the best constant answer, and the same questions with the picture taken away.</p>"
        f'<div class="card wide">{scores_html}</div></section>',
        '<section><h2>Training</h2><p class="quiet">The loss, and how many tokens become one concept.</p>'
        f'<div class="charts">{charts}</div></section>',
    ]
    if examples:
        sections.append(
            "<section><h2>Test pictures, and what the model merges</h2>"
            f'<p class="quiet">Drawn at random from the test questions. {escape(legend())}</p>'
            f'<div class="examples">{cards}</div></section>'
        )
    sections.append("<footer>Written by ConceptVLM. This file needs no network and runs no scripts.</footer>")
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(sections)}</main></body></html>\n'


def draw_example(example: ExampleView) -> str:
    """A card: the picture under its concepts, the question, what was said, what is true, and the words."""
    view = example.view
    pictures = "".join(draw_picture(view, place) for place in range(len(view.pictures)))
    if example.choices:
        items = "".join(
            f"<li{' class=said' if choice == example.answer else ''}>{escape(choice)}</li>"
            for choice in example.choices
        )
        said = f'<ul class="choices">{items}</ul>'
    else:
        said = f'<p class="said-words">“{escape(example.answer)}”</p>'
    num_tokens = len(view.tokens)
    return (
        '<article class="card example"><div class="asked">'
        f'<div class="pictures">{pictures}</div><div><div class="task">{escape(example.task)}</div>'
        f"<h3>{escape(example.question)}</h3>{said}{_verdict(example)}</div></div>"
        f'<div class="merged"><p>{num_tokens} tokens, {view.num_concepts} concepts; the answer in bold</p>'
        f"{draw_words(view)}</div></article>"
    )


def _verdict(example: ExampleView) -> str:
    truth = f"the truth is “{escape(example.truth)}”"
    if example.score >= 1:
        return '<p class="verdict right"><b>✓ right</b></p>'
    if example.score > 0:
        return f'<p class="verdict part"><b>≈ in part, {example.score:.2f}</b>: {truth}</p>'
    return f'<p class="verdict wrong"><b>✗ wrong</b>: {truth}</p>'
