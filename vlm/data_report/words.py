"""Texts of strangers for a terminal, and numbers in few characters."""

import math


def plain(text: str, most: int | None = None) -> str:
    """A text in which every character that a terminal would obey is written out: nothing in it moves, colours or hides.

    Args:
        most: characters of the result at most; a cut is shown.
    """
    written = "".join(one if one.isprintable() else _escaped(one) for one in text[: None if most is None else most + 1])
    return written if most is None or len(written) <= most else f"{written[: most - 1]}…"


def lines_of(text: str) -> list[str]:
    """The same, line by line: a line feed ends a line, all else is written out."""
    return [plain(line) for line in text.split("\n")]


def short(value: float) -> str:
    """`12,345`, `0.37`: three or more digits that count."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(1, 2 - math.floor(math.log10(abs(value) or 1)))}f}"


def size_of(num_bytes: float) -> str:
    """`1.2 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            break
        num_bytes /= 1024
    else:
        unit = "TiB"
    return f"{num_bytes:,.0f} {unit}" if unit == "bytes" else f"{num_bytes:,.1f} {unit}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 fault`, `2 faults`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _escaped(character: str) -> str:
    code = ord(character)
    if character in "\t\r":
        return {"\t": "\\t", "\r": "\\r"}[character]
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
