"""One record as a page: one HTML file that needs nothing else, its texts escaped and its pictures small copies drawn anew."""

from dataclasses import replace
from html import escape

from data.doctor.views import MOST_CHARACTERS, view_record
from data.sample import Question
from vlm.data_report.cards import draw_record
from vlm.data_report.page import wrap_page
from vlm.data_report.shown import Shown
from vlm.data_report.tokens import DRAWN, draw_pieces
from vlm.data_report.words import counted, plain, size_of

TOKEN_STYLE = """
<style>.tokens { font:.9rem/1.9 ui-monospace,Menlo,Consolas,monospace; overflow-wrap:anywhere; }
.tokens .loss { color:var(--right); font-weight:650; } .tokens .special { color:var(--quiet); font-size:.85em; }
.tokens .slots { border:1px solid currentColor; border-radius:4px; padding:1px 6px; color:var(--series-2); }
.tokens .cut { color:var(--rule); } .records { grid-template-columns:minmax(0,640px); }</style>
"""


def draw_record_page(shown: Shown) -> str:
    """The page of a record that could be read.

    Raises:
        ValueError: it could not.
    """
    if shown.record is None or shown.faults:
        raise ValueError(f"{'; '.join(shown.faults)}: it cannot be drawn; leave out --html to see what is stored")
    view = view_record(str(shown.found.shard), shown.record, MOST_CHARACTERS * 100)
    found = shown.found
    rows = "".join(f"<div><dt>{_text(name)}</dt><dd>{size_of(size)}</dd></div>" for name, size in found.sizes.items())
    sections = [
        f'{TOKEN_STYLE}<header><h1>{_text(found.key)}</h1><p class="lead">Record {found.number:,} of {_text(str(found.shard))}</p>'
        f'<dl class="facts">{rows}</dl></header>',
        f'<section><h2>What it says</h2><div class="records">{draw_record(replace(view, shard=found.shard.name))}</div></section>',
    ]
    if isinstance(shown.record, Question) and shown.record.choices:
        items = "".join(
            f"<li{' class=said' if place == shown.record.answer else ''}>{_text(one)}</li>"
            for place, one in enumerate(shown.record.choices)
        )
        sections.append(f'<section><h2>Choices</h2><div class="card"><ul class="choices">{items}</ul></div></section>')
    if shown.tokens is not None:
        tokens = shown.tokens
        said = f"{counted(tokens.count, 'token')}, {tokens.slots:,} slots of pictures, {tokens.answered:,} with loss (bold)."
        sections.append(
            f'<section><h2>Its tokens</h2><p class="quiet">{said}</p><div class="card tokens">'
            f"{draw_pieces(tokens.pieces, DRAWN)}</div></section>"
        )
    sections.append("<footer>Written by ConceptVLM. This file needs no network and runs no scripts.</footer>")
    return wrap_page(plain(found.key), sections)


def _text(text: str) -> str:
    return escape(plain(text))
