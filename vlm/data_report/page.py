"""The findings of the doctor as a page: one HTML file that needs nothing else and can be shown to a stranger.

In: findings. Out: a page without scripts, outside files or addresses. Texts and pictures of records are strangers': texts are
escaped, pictures are small copies that were drawn anew.
"""

from collections.abc import Sequence
from html import escape

from data.doctor.findings import Findings
from data.doctor.flaws import Flaws
from vlm.data_report.bars import draw_histogram
from vlm.data_report.cards import CARD_STYLE, draw_record
from vlm.data_report.text import notes, summary
from vlm.data_report.words import counted, plain, short, size_of
from vlm.inference.style import PAGE_STYLE

NAMED = 100  # flaws of one reason on the page
SHARDS = 500  # that are listed
# Figures whose spread is drawn.
DRAWN = {
    "characters": "Characters of a record",
    "text tokens": "Text tokens of a record",
    "tokens with slots": "Tokens of a record, slots of pictures among them",
    "answered tokens": "Tokens with loss",
    "turns of a conversation": "Turns of a conversation",
    "pictures of a record": "Pictures of a record",
    "width": "Width of a picture, px",
    "height": "Height of a picture, px",
    "width / height": "Width / height of a picture",
}
STYLE = """
table { border-collapse:collapse; width:100%; font-size:.86rem; font-variant-numeric:tabular-nums; }
th { font-weight:600; text-align:right; padding:6px 8px; border-bottom:1px solid var(--rule); }
td { text-align:right; padding:6px 8px; border-bottom:1px solid var(--rule); white-space:nowrap; }
th:first-child, td:first-child { text-align:left; padding-left:0; }
td.words { text-align:left; white-space:normal; overflow-wrap:anywhere; min-width:9em; }
tr:last-child td { border-bottom:0; }
.charts { grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr)); }
.charts .card { padding:14px 16px; }
.charts figcaption small { display:block; margin:0; } .charts .target { stroke:var(--ink); }
.bar { fill:var(--series-1); opacity:.85; } .bar.rest { fill:var(--series-2); }
.state { font-weight:620; margin:18px 0 0; overflow-wrap:anywhere; }
.state.passed { color:var(--right); } .state.failed { color:var(--wrong); }
.flaws { margin:0; padding:0; list-style:none; font-size:.86rem; }
.flaws li { padding:6px 0; border-bottom:1px solid var(--rule); overflow-wrap:anywhere; }
.flaws li:last-child { border-bottom:0; }
.flaws code, .shards code { font:.8rem ui-monospace,Menlo,Consolas,monospace; color:var(--quiet); overflow-wrap:anywhere; }
summary { cursor:pointer; font-weight:600; } details + details { margin-top:12px; }
details.fault summary { color:var(--wrong); }
.pair { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,360px),1fr)); gap:18px; align-items:start; }
.hints { margin:.4em 0 0; padding-left:1.2em; font-size:.9rem; color:var(--quiet); }
"""


def draw_page(found: Findings, paths: Sequence[str], tokenizer: str, encoder: str | None) -> str:
    """The whole page as HTML.

    Args:
        paths: that were examined, for the title.
        tokenizer: its name.
        encoder: its name; None where slots were not counted.
    """
    state = "failed" if found.faults.total else "passed"
    tiles = "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in facts(found).items())
    who = f"tokenizer {tokenizer}" + ("" if encoder is None else f", encoder {encoder}")
    sections = [
        f'<header><h1>What is in these shards</h1><p class="lead">{_text(", ".join(paths), 400)}</p>'
        f'<p class="state {state}">{_text(summary(found))}</p><dl class="facts">{tiles}</dl></header>'
    ]
    if found.faults.total or found.warnings.total:
        flaws = _flaws(found.faults, "fault") + _flaws(found.warnings, "warning")
        sections.append(
            '<section><h2>Faults and warnings</h2><p class="quiet">Training refuses a shard with a fault, and leaves out a '
            f'record with one. A warning is worth a look.</p><div class="card">{flaws}</div></section>'
        )
    sections.append(_contents(found))
    hints = "".join(f"<li>{_text(note)}</li>" for note in notes(found))
    charts = "".join(
        f'<div class="card">{draw_histogram(title, found.spreads[name])}</div>'
        for name, title in DRAWN.items()
        if name in found.spreads and found.spreads[name].least != found.spreads[name].most
    )
    sections.append(
        f'<section><h2>How they are spread</h2><p class="quiet">Counted for the {_text(who)}. The dashed line is the median; '
        "a bar of the other colour holds all that lies behind it. A figure that is the same for all is in the table only.</p>"
        f'<div class="charts">{charts}</div></section>'
    )
    sections.append(
        f'<section><h2>All figures</h2><div class="card wide">{_figures(found)}</div><ul class="hints">{hints}</ul></section>'
    )
    if found.captions:
        rows = [(f"{one.count:,}", f"{one.share:.1%}", one.text, one.key) for one in found.captions]
        sections.append(
            '<section><h2>The most frequent captions</h2><div class="card wide">'
            f"{_table(('times', 'share', 'caption', 'first key'), rows, words=(2, 3))}</div></section>"
        )
    if found.samples:
        cards = "".join(map(draw_record, found.samples))
        sections.append(
            f'<section><h2>Some records</h2><p class="quiet">{len(found.samples)} drawn at random, seed '
            f'{found.settings["seed"]}; the pictures are small copies.</p><div class="records">{cards}</div></section>'
        )
    sections.append("<footer>Written by ConceptVLM. This file needs no network and runs no scripts.</footer>")
    return wrap_page("What is in these shards", sections)


def wrap_page(title: str, sections: Sequence[str]) -> str:
    """A page around its sections. Its rules keep a browser from fetching or running anything, whatever a text says."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{PAGE_STYLE}{STYLE}{CARD_STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(sections)}</main></body></html>\n'


def facts(found: Findings) -> dict[str, str]:
    """What stands at the top."""
    tokens = found.spreads.get("tokens with slots") or found.spreads.get("text tokens")
    told = {
        "records": f"{found.num_records:,}",
        "shards": f"{len(found.shards):,}",
        "size": size_of(sum(shard["bytes"] for shard in found.shards)),
        "pictures": f"{sum(found.formats.values()):,}",
    }
    if tokens is not None:
        told["tokens"] = f"{tokens.total:,}"
    if found.answered_share is not None:
        told["of them with loss"] = f"{found.answered_share:.1%}"
    if found.packing is not None:
        told[f"rows of {found.packing.row_tokens:,} an epoch"] = f"{found.packing.rows_per_epoch:,}"
        told["of them empty"] = f"{found.packing.waste:.1%}"
    return told | {"faults": f"{found.faults.total:,}", "warnings": f"{found.warnings.total:,}"}


def _flaws(flaws: Flaws, kind: str) -> str:
    parts = []
    for reason, count in flaws.counts.most_common():
        named = flaws.named[reason][:NAMED]
        lines = "".join(
            f"<li>{_text(flaw.message, 400)}<br><code>{_text(flaw.shard)}"
            f"{'' if flaw.key is None else f', key {_text(repr(flaw.key), 200)}'}</code></li>"
            for flaw in named
        )
        more = f"<li>and {count - len(named):,} more</li>" if count > len(named) else ""
        is_open = " open" if kind == "fault" else ""
        title = f"{counted(count, kind)}: {escape(reason)}"
        parts.append(
            f'<details class="{kind}"{is_open}><summary>{title}</summary><ul class="flaws">{lines}{more}</ul></details>'
        )
    return "".join(parts)


def _contents(found: Findings) -> str:
    rows = [(kind, f"{count:,}", f"{count / found.num_records:.1%}") for kind, count in found.kinds.items()]
    if found.num_bad:
        rows.append(("bad", f"{found.num_bad:,}", f"{found.num_bad / found.num_records:.1%}"))
    kinds = _table(("kind", "records", "share"), rows)
    members = [(name, size_of(count), "") for name, count in found.bytes_of.items()]
    members += [(name, "", f"{count:,}") for name, count in found.formats.items()]
    members += [(f"ignored: {name}", "", f"{count:,}") for name, count in list(found.ignored.items())[:12]]
    shards = [
        (shard["path"], size_of(shard["bytes"]), f"{shard['records']:,}", f"{shard['faults']:,}")
        for shard in found.shards[:SHARDS]
    ]
    listed = _table(("shard", "size", "records", "faults"), shards, words=(0,))
    rest = f"<p>and {len(found.shards) - SHARDS:,} more</p>" if len(found.shards) > SHARDS else ""
    return (
        f'<section><h2>Contents</h2><div class="pair"><div class="card wide">{kinds}</div>'
        f'<div class="card wide">{_table(("members", "size", "number"), members)}</div></div>'
        f'<details class="shards" style="margin-top:14px"><summary>{counted(len(found.shards), "shard")}</summary>'
        f'<div class="card wide">{listed}{rest}</div></details></section>'
    )


def _figures(found: Findings) -> str:
    rows = [
        (name, *(short(value) for value in (one.mean, one.least, one.p5, one.p50, one.p95, one.most)))
        for name, one in found.spreads.items()
    ]
    return _table(("", "mean", "least", "5 %", "median", "95 %", "most"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = ()) -> str:
    """Plain cells; the columns of words wrap."""

    def cells(row: Sequence[str]) -> str:
        return "".join(
            f"<td{' class=words' if place in words else ''}>{_text(cell, 300)}</td>" for place, cell in enumerate(row)
        )

    titles = "".join(
        f"<th{' style=text-align:left' if p in words else ''}>{escape(one)}</th>" for p, one in enumerate(head)
    )
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{cells(row)}</tr>' for row in rows)}</table>"


def _text(text: str, most: int | None = None) -> str:
    return escape(plain(text, most))
