"""Draw a `ConceptView` as HTML: concepts over a picture's grid, and under the words.

Out: fragments that need `style.CONCEPT_STYLE` once on their page, and nothing else. One concept has one colour, in the
picture and in the words; neighbours never share one. Colours are CSS variables with a light and a dark form, and no
fact is told by colour alone: edges, dots and titles say the same.
"""

import base64
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from itertools import groupby

from vlm.inference.viewer import ConceptView, TokenView

NUM_COLORS = 6
CELL = 60  # units of the drawing for one slot


def color_concepts(view: ConceptView) -> dict[int, int]:
    """A colour for each concept, so that none touches its like in the sequence or in a picture."""
    touches: dict[int, set[int]] = defaultdict(set)
    slots = {
        (picture, token.row, token.column): token.concept
        for picture in range(len(view.pictures))
        for token in view.patches(picture)
    }
    pairs = [(one.concept, two.concept) for one, two in zip(view.tokens, view.tokens[1:], strict=False)]
    for (picture, row, column), concept in slots.items():
        pairs += [
            (concept, slots[place])
            for place in ((picture, row + 1, column), (picture, row, column + 1))
            if place in slots
        ]
    for one, two in pairs:
        touches[one].add(two)
        touches[two].add(one)
    colors: dict[int, int] = {}
    for concept in sorted({token.concept for token in view.tokens}):
        taken = {colors[other] for other in touches[concept] if other in colors}
        turn = [(concept + offset) % NUM_COLORS for offset in range(NUM_COLORS)]
        # A long concept can touch more neighbours than there are colours; its edge is drawn all the same.
        colors[concept] = next((color for color in turn if color not in taken), turn[0])
    return colors


def draw_picture(view: ConceptView, picture: int = 0) -> str:
    """One picture under the grid of its slots: a colour a concept, lines between them, a dot where one closes."""
    shown = view.pictures[picture]
    width, height = shown.columns * CELL, shown.rows * CELL
    colors = color_concepts(view)
    slots = view.patches(picture)
    concept_at = {(token.row, token.column): token.concept for token in slots}
    edges = _edges(concept_at)
    cells = "".join(
        f'<rect class="cell" x="{token.column * CELL}" y="{token.row * CELL}" width="{CELL}" height="{CELL}" '
        f'style="fill:var(--concept-{colors[token.concept]})"><title>row {token.row + 1}, column {token.column + 1}: '
        f"{_title(token)}</title></rect>"
        for token in slots
    )
    dots = "".join(
        f'<circle class="close" cx="{(token.column + 0.86) * CELL:.1f}" cy="{(token.row + 0.86) * CELL:.1f}" '
        f'r="{CELL * 0.075:.1f}"/>'
        for token in slots
        if token.closes
    )
    data = base64.b64encode(shown.webp).decode()
    label = f"{shown.name}: {len(slots)} patches, merged into {view.concepts_of(picture)} concepts"
    return (
        f'<figure class="concept-picture"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f'<image href="data:image/webp;base64,{data}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
        f'{cells}<path class="halo" d="{edges}"/><path class="edge" d="{edges}"/>{dots}</svg></figure>'
    )


def draw_words(view: ConceptView) -> str:
    """All tokens in order, those of one concept on one underline; a bar marks the token that closes it."""
    colors = color_concepts(view)
    last_closed = max((token.concept for token in view.tokens if token.closes), default=-1)
    parts = []
    for (picture, concept, is_answer), group in groupby(enumerate(view.tokens), lambda item: _together(view, *item)):
        tokens = [token for _, token in group]
        if picture is not None:
            shown = view.pictures[picture]
            text = f"{shown.name}, {shown.rows} × {shown.columns} patches in {view.concepts_of(picture)} concepts"
            parts.append(f'<span class="picture-mark">{text}</span>')
            continue
        classes = ["concept"] + ["answer"] * is_answer + ["open"] * (concept > last_closed)
        chips = "".join(_chip(token) for token in tokens)
        parts.append(f'<span class="{" ".join(classes)}" style="--c:var(--concept-{colors[concept]})">{chips}</span>')
    return f'<div class="concept-words">{"".join(parts)}</div>'


def _together(view: ConceptView, place: int, token: TokenView) -> tuple[int | None, int, bool]:
    """What neighbours share that are drawn as one: a picture, or a concept; prompt and answer stay apart."""
    return token.picture, -1 if token.picture is not None else token.concept, place >= view.answer_start


def _chip(token: TokenView) -> str:
    classes = ["token"] + ["closes"] * token.closes + ["special"] * token.special
    return f'<span class="{" ".join(classes)}" title="{escape(_title(token))}">{escape(token.text)}</span>'


def _title(token: TokenView) -> str:
    return f"concept {token.concept + 1}, {'closed here, ' if token.closes else ''}p = {token.prob:.2f}"


def _edges(concept_at: dict[tuple[int, int], int]) -> str:
    """An SVG path along every side that two slots of different concepts share."""
    parts = []
    for (row, column), concept in sorted(concept_at.items()):
        x, y = column * CELL, row * CELL
        if concept_at.get((row, column + 1), concept) != concept:
            parts.append(f"M{x + CELL} {y}v{CELL}")
        if concept_at.get((row + 1, column), concept) != concept:
            parts.append(f"M{x} {y + CELL}h{CELL}")
    return "".join(parts)


def legend() -> str:
    """How to read the drawings, in one sentence."""
    return (
        "Patches within one outline, and words on one underline, were merged into one concept; a dot or a bar marks "
        "the patch or word that closes it, "
        "and words on a dashed underline are in no concept yet. Point at one to see its probability of closing."
    )


def draw_all(view: ConceptView) -> Sequence[str]:
    """Every picture, then the words."""
    return [*(draw_picture(view, picture) for picture in range(len(view.pictures))), draw_words(view)]
