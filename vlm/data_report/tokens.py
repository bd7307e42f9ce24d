"""A row's tokens as pieces to read: words as the tokenizer cuts them, marks of the template, and pictures as one group each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from data.doctor.record import turns_of
from data.sample import Question, Sample
from data.text import Row
from data.tokenizer import Tokenizer
from vlm.data_report.words import plain

MOST_PARTS = 4  # tokens of one character at most: UTF-8 has four bytes


@dataclass(frozen=True)
class Piece:
    """One or more tokens."""

    text: str  # of a picture: its name
    num_tokens: int
    has_loss: bool  # True where the tokens are targets
    is_special: bool = False  # a mark of the chat template
    is_picture: bool = False  # all slots of one picture


@dataclass(frozen=True)
class Marks:
    """What stands before and behind pieces of a kind, and between two words of the tokenizer."""

    loss: tuple[str, str]
    special: tuple[str, str]
    quiet: tuple[str, str]
    between: str
    escape: Callable[[str], str]


# For a file; for a terminal (bold green; slots faint, which would end the bold of what is around them); for a page.
WRITTEN = Marks(("[", "]"), ("", ""), ("", ""), "|", plain)
COLOURED = Marks(("\x1b[1;32m", "\x1b[0m"), ("", ""), ("\x1b[2m", "\x1b[22m"), "|", plain)
DRAWN = Marks(
    ('<b class="loss">', "</b>"),
    ('<span class="special">', "</span>"),
    ('<span class="slots">', "</span>"),
    '<span class="cut">|</span>',
    lambda text: escape(plain(text)),
)


def pieces_of(row: Row, record: Sample | Question, tokenizer: Tokenizer) -> list[Piece]:
    """The row from its first token to its last."""
    marks = {tokenizer.token_id(own): name for name, own in tokenizer.special_names.items()}
    pictures = iter(zip(_names(record), row.pictures, strict=False))
    pieces: list[Piece] = []
    waiting: list[int] = []  # tokens that are not yet a whole character
    place = 0
    while place < len(row):
        number, has_loss = int(row.ids[place]), bool(row.loss[place])
        if row.is_image[place]:
            name, picture = next(pictures)
            slots = sum(picture.slots_per_crop)
            pieces.append(Piece(name, slots, False, is_picture=True))
            place += slots
            continue
        place += 1
        if number in marks:
            pieces.append(Piece(marks[number], 1, has_loss, is_special=True))
            continue
        waiting.append(number)
        text = tokenizer.decode(waiting)
        goes_on = place < len(row) and not row.is_image[place] and int(row.ids[place]) not in marks
        if text.endswith("\ufffd") and goes_on and len(waiting) < MOST_PARTS:
            continue
        pieces.append(Piece(text, len(waiting), has_loss))
        waiting = []
    return pieces


def draw_pieces(pieces: Sequence[Piece], mark: Marks) -> str:
    """All pieces in one text.

    Args:
        mark: what stands around them.
    """
    out, in_loss, was_word = [], False, False
    for piece in pieces:
        if piece.has_loss != in_loss:
            out.append(mark.loss[0] if piece.has_loss else mark.loss[1])
            in_loss, was_word = piece.has_loss, False
        is_word = not piece.is_special and not piece.is_picture
        if is_word and was_word:
            out.append(mark.between)
        text = mark.escape(piece.text)
        if piece.is_picture:
            out.append(f"{mark.quiet[0]}({text}: {piece.num_tokens} slots){mark.quiet[1]}")
        elif piece.is_special:
            out.append(f"{mark.special[0]}{text}{mark.special[1]}")
        else:
            out.append(text)
        was_word = is_word
    return "".join(out) + (mark.loss[1] if in_loss else "")


def _names(record: Sample | Question) -> list[str]:
    return [part.image for _, parts in turns_of(record) for part in parts if part.image is not None]
