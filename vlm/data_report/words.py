"""Texts of strangers for a terminal, and numbers in few characters."""

import math
import textwrap
import unicodedata

JOINERS = "\u200c\u200d"
NAMES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def plain(text: str, most: int | None = None) -> str:
    """A text in which every character that a terminal would obey is written out: nothing in it moves, colours or hides.

    Args:
        most: characters of the result at most; a cut is shown.
    """
    written = "".join(one if _is_shown(one) else _escaped(one) for one in text[: None if most is None else most + 1])
    return written if most is None or len(written) <= most else f"{written[: most - 1]}…"


def lines_of(text: str, width: int) -> list[str]:
    """The same, line by line: a line feed ends a line, and so does the width; all else is written out."""
    lines = []
    for line in text.split("\n"):
        written = plain(line)
        lines += textwrap.wrap(written, width, drop_whitespace=False, replace_whitespace=False) or [""]
    return lines


def short(value: int | float) -> str:
    """`12,345`, `0.37`: three or more digits that count."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(1, 2 - math.floor(math.log10(abs(value) or 1)))}f}"


def size_of(num_bytes: int | float) -> str:
    """`1.2 MiB`."""
    units, place = ("bytes", "KiB", "MiB", "GiB", "TiB"), 0
    while num_bytes >= 1024 and place < len(units) - 1:
        num_bytes, place = num_bytes / 1024, place + 1
    return f"{num_bytes:,.{min(place, 1)}f} {units[place]}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 fault`, `2 faults`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _is_shown(character: str) -> bool:
    """Letters, signs, spaces of any width, and what joins emoji and letters; nothing that moves or turns what follows."""
    return character.isprintable() or character in JOINERS or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    code = ord(character)
    if character in NAMES:
        return NAMES[character]
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
