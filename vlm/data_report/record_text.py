"""One record as text for a terminal. What a record says is a stranger's: nothing in it reaches the terminal but as letters."""

from data.doctor.record import kind_of, turns_of
from data.sample import Question
from vlm.data_report.shown import Shown
from vlm.data_report.tokens import Marks, draw_pieces
from vlm.data_report.words import counted, lines_of, plain, size_of

LINE = 110
MOST_RAW = 2000  # characters of a JSON that cannot be read


def as_text(shown: Shown, mark: Marks) -> str:
    """Members, content, scoring, tokens, faults."""
    found = shown.found
    lines = [f"{plain(str(found.shard))}, record {found.number:,}, key {plain(repr(found.key))}"]
    if shown.record is not None:
        lines.append(f"{kind_of(shown.record)}, id {plain(repr(shown.record.id))}")
    lines += ["", *_members(shown), ""]
    lines += _content(shown) if shown.record is not None else _raw(shown)
    lines += _scoring(shown) + _tokens(shown, mark)
    if found.shard_faults.total:
        counts = ", ".join(f"{count:,} x {reason}" for reason, count in found.shard_faults.counts.items())
        lines += ["", f"its shard has faults: {counts}; vlm data doctor names them"]
    return "\n".join(lines)


def _members(shown: Shown) -> list[str]:
    pictures = {one.name: one for one in shown.pictures}
    rows = []
    for name, size in shown.found.sizes.items():
        one = pictures.get(name)
        if one is not None:
            told = one.fault or f"{one.format}, {one.width} x {one.height}"
        else:
            told = "" if name in ("json", "txt") else "no reader looks at it"
        rows.append((plain(name, 60), size_of(size), plain(told, 200)))
    return [f"{name}  {size}  {told}".rstrip() for name, size, told in _aligned(rows)]


def _aligned(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    first, second = (max((len(row[place]) for row in rows), default=0) for place in (0, 1))
    return [(name.ljust(first), size.rjust(second), told) for name, size, told in rows]


def _content(shown: Shown) -> list[str]:
    assert shown.record is not None
    sizes = {one.name: one for one in shown.pictures}
    lines = []
    for role, parts in turns_of(shown.record):
        if role is not None:
            lines.append(f"{role}:")
        for part in parts:
            if part.image is not None:
                one = sizes[part.image]
                lines.append(f"  ({plain(part.image)}: {one.format}, {one.width} x {one.height})")
            elif part.text is not None:
                lines += [f"  {line}" for line in lines_of(part.text, LINE)]
    return lines


def _raw(shown: Shown) -> list[str]:
    """What stands in the texts of a record that cannot be read."""
    lines = []
    for name in ("json", "txt"):
        if name in shown.found.members:
            text = shown.found.members[name].decode("utf-8", "backslashreplace")
            lines += [f"{name}:", *(f"  {line}" for line in lines_of(text[:MOST_RAW], LINE))]
            lines += [f"  ... and {len(text) - MOST_RAW:,} characters more"] if len(text) > MOST_RAW else []
    return lines


def _scoring(shown: Shown) -> list[str]:
    record = shown.record
    if not isinstance(record, Question):
        return []
    rows = [("right" if place == record.answer else "", one) for place, one in enumerate(record.choices)]
    rows += [("answer", one) for one in record.answers]
    rows += [
        (name, str(value)) for name in ("category", "group", "box") if (value := getattr(record, name)) is not None
    ]
    rows += [("meta", repr(dict(record.meta)))] if record.meta else []
    return ["", "scored by:", *(f"  {name:8}  {plain(text, 300)}" for name, text in rows)]


def _tokens(shown: Shown, mark: Marks) -> list[str]:
    tokens = shown.tokens
    if tokens is None:
        return []
    said = (
        f"{counted(tokens.count, 'token')}, {tokens.slots:,} of them slots of pictures; {tokens.answered:,} with loss"
    )
    if not tokens.pictures_counted:
        said = f"{counted(tokens.count, 'token')} of text (no encoder, so no slots of pictures); {tokens.answered:,} with loss"
    return ["", said, draw_pieces(tokens.pieces, mark)]
