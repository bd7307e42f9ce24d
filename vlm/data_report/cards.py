"""A record as a card: its pictures and its turns, every text escaped."""

import base64
from html import escape

from data.doctor.views import PartView, PictureView, RecordView
from vlm.data_report.words import plain, size_of

CARD_STYLE = """
.records { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr)); gap:14px; align-items:start; }
.record h3 { font-size:.82rem; font-weight:600; margin:0 0 2px; overflow-wrap:anywhere; }
.record .where { font-size:.74rem; color:var(--quiet); margin:0 0 10px; overflow-wrap:anywhere; }
.record figure { margin:0 0 10px; }
.record img { display:block; max-width:100%; height:auto; border-radius:6px; background:#fff; border:1px solid var(--rule); }
.record figcaption { font-size:.74rem; color:var(--quiet); margin-top:2px; }
.turn { margin:0 0 6px; font-size:.9rem; white-space:pre-wrap; overflow-wrap:anywhere; }
.turn b { display:block; font-size:.72rem; font-weight:600; color:var(--quiet); }
.turn.assistant { border-left:3px solid var(--accent); padding-left:9px; }
.truth { font-size:.84rem; color:var(--right); margin:0; overflow-wrap:anywhere; }
"""


def draw_record(view: RecordView) -> str:
    """One record: where it is, its pictures where they stand in the text, and what is said."""
    parts, role = [], ""
    for part in view.parts:
        parts.append(_part(part, view.pictures, part.role if part.role != role else None))
        role = part.role or ""
    truth = "" if view.truth is None else f'<p class="truth">✓ {_text(view.truth)}</p>'
    more = '<p class="where">… it goes on</p>' if view.is_cut else ""
    return (
        f'<article class="card record"><h3>{_text(view.key)}</h3><p class="where">{escape(view.kind)}, '
        f"{_text(view.shard.rsplit('/', 1)[-1])}</p>{''.join(parts)}{truth}{more}</article>"
    )


def draw_picture(view: PictureView) -> str:
    """A small copy, and what the stored one is."""
    data = base64.b64encode(view.webp).decode()
    told = f"{_text(view.name)}: {view.format}, {view.width} × {view.height}, {size_of(view.num_bytes)}"
    return f'<figure><img alt="{_text(view.name)}" src="data:image/webp;base64,{data}"><figcaption>{told}</figcaption></figure>'


def _part(part: PartView, pictures: tuple[PictureView, ...], role: str | None) -> str:
    name = "" if role is None else f"<b>{escape(role)}</b>"
    if part.picture is not None:
        return (f'<p class="turn">{name}</p>' if name else "") + draw_picture(pictures[part.picture])
    if not part.text:
        return ""
    kind = " assistant" if part.role == "assistant" else ""
    return f'<p class="turn{kind}">{name}{_text(part.text)}</p>'


def _text(text: str) -> str:
    """Escaped, and without characters that turn the reading direction or hide; lines stay lines."""
    return escape("\n".join(plain(line) for line in text.split("\n")))
