"""Rows longer than a packed row: left out, cut, or split into pieces, by a rule that the user chose.

In: a row and the budget. Out: rows within it. A picture stays whole or goes whole; no target is asked for without the tokens
before it. What a piece looks like:

- A document's piece is `<|bos|>` and then the next tokens: a document that begins in the middle of a text. Only the last has
  the `<|end|>`.
- A conversation is split before a user's turn wherever that is possible. Each piece begins as the conversation does, with
  `<|bos|>` and what the system says, so that it is a conversation with fewer turns. Where a single question with its
  answer is too long, it is split inside: the next piece goes on behind the opening and the mark of the role (`<|assistant|>`).
  An answer that is split has its end token in its last piece only: a piece never teaches to stop where the text goes on.
- Pictures go to the piece with the text behind them.

What is repeated (the opening, a role's mark) carries no loss. So the targets of all pieces one after another are those of
the whole; a piece without a target, such as the first half of a question, is left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from data.sample import BadRecord
from data.text import Row, Turn

OverlongRule = Literal["drop", "cut", "split"]
OVERLONG_RULES = get_args(OverlongRule)


def fit_row(row: Row, row_tokens: int, rule: OverlongRule) -> list[Row]:
    """A row within the budget as it is; of a longer one what the rule leaves.

    Args:
        row: a record to train on, as `sample_row` makes it.
        row_tokens: the most tokens of a row, at least 2.
        rule: `drop`: nothing. `cut`: the beginning, at most so many tokens. `split`: all of it in consecutive pieces, named
            `ID`, `ID#1`, `ID#2`.

    Returns:
        Nothing where no target is left.

    Raises:
        BadRecord: a row to split has a picture that fits into no piece.
        ValueError: the rule is unknown, or the budget has no room for a target.
    """
    if rule not in OVERLONG_RULES:
        raise ValueError(f"unknown rule {rule!r} for records that are too long; known: {', '.join(OVERLONG_RULES)}")
    if row_tokens < 2:
        raise ValueError(f"row_tokens must be at least 2, a token and the next one, got {row_tokens}")
    if len(row) <= row_tokens:
        return [row]
    if rule == "drop":
        return []
    if rule == "cut":
        return _with_targets([_piece(row, 0, _last_cut(_may_cut(row), row_tokens), 0, None)])
    return _with_targets(list(_split(row, row_tokens)))


def _split(row: Row, row_tokens: int) -> Iterator[Row]:
    may_cut = _may_cut(row)
    exchanges = [turn.start for before, turn in zip(row.turns, row.turns[1:], strict=False) if _is_new(before, turn)]
    opening, start = _opening(row), 0
    while start < len(row):
        turn = next((turn for turn in reversed(row.turns) if turn.start < start), None)
        if turn is not None and any(turn.start == start for turn in row.turns):
            turn = None  # begins with its own mark
        atom = int(may_cut[start + 1 :].argmax()) + 1  # tokens of the picture that stands first, or one
        begin, turn = _beginning(row, start, opening, turn, atom, row_tokens)
        end = start + row_tokens - _size(begin, turn, start)
        if end < len(row):
            here = [place for place in exchanges if start < place <= end]
            end = here[-1] if here else _before_pictures(row, may_cut, start, _last_cut(may_cut, end))
        end = min(end, len(row))
        yield _piece(row, start, end, begin, turn)
        start = end


def _beginning(
    row: Row, start: int, opening: int, turn: Turn | None, atom: int, row_tokens: int
) -> tuple[int, Turn | None]:
    """How many of the row's first tokens a piece repeats, and the turn whose mark it repeats."""
    if start == 0:
        if atom > row_tokens:
            raise _too_large(row, atom, row_tokens)
        return 0, None
    # What is repeated may take half of the room, and gives way to a picture.
    least = min(1, opening)
    for begin, marked in ((opening, turn), (least, turn), (least, None)):
        size = _size(begin, marked, start)
        is_least = begin == least and marked is None
        if size == 0 and row.loss[start]:
            begin = size = 1  # a target needs a token before it
        if size + atom <= row_tokens and (is_least or size <= row_tokens // 2):
            return begin, marked
    raise _too_large(row, atom, row_tokens)


def _too_large(row: Row, slots: int, row_tokens: int) -> BadRecord:
    return BadRecord(
        f"record {row.sample_id!r} has a picture of {slots} slots, and a piece of row_tokens {row_tokens} has room for "
        f"{row_tokens - 1}; raise row_tokens, or let pictures take fewer slots",
        "picture longer than row_tokens",
    )


def _opening(row: Row) -> int:
    """Tokens at the beginning that each piece begins with: up to the first turn, or behind the system's."""
    if not row.turns:
        return 1
    first = row.turns[0]
    if first.role == "system" and len(row.turns) > 1 and not row.is_image[: row.turns[1].start].any():
        return row.turns[1].start
    return first.start


def _is_new(before: Turn, turn: Turn) -> bool:
    """True where a turn asks anew: what stands before it is not needed to answer it."""
    return before.role == "assistant" and turn.role != "assistant"


def _size(begin: int, turn: Turn | None, start: int) -> int:
    return begin + (0 if turn is None else min(turn.body, start) - turn.start)


def _may_cut(row: Row) -> Bool[np.ndarray, " n1"]:
    """For each place between two tokens, and both ends: False inside a picture's slots."""
    may_cut = np.ones(len(row) + 1, dtype=np.bool_)
    slots = np.flatnonzero(row.is_image)
    first = 0
    for picture in row.pictures:
        own = slots[first : first + sum(picture.slots_per_crop)]
        may_cut[own[1:]] = False
        first += len(own)
    return may_cut


def _last_cut(may_cut: Bool[np.ndarray, " n1"], most: int) -> int:
    return int(np.flatnonzero(may_cut[: most + 1])[-1])


def _before_pictures(row: Row, may_cut: Bool[np.ndarray, " n1"], start: int, end: int) -> int:
    """The place before the pictures that a piece would end with, if there is anything else in it."""
    place = end
    while place > start and row.is_image[place - 1]:
        place = _last_cut(may_cut, place - 1)
    return place if place > start else end


def _piece(row: Row, start: int, end: int, begin: int, turn: Turn | None) -> Row:
    """Tokens `start` to `end` behind the row's first `begin` and the turn's mark; time begins at 0."""
    mark = [] if turn is None else list(range(turn.start, min(turn.body, start)))
    repeated = np.array([*range(begin), *mark], dtype=np.int64)
    places = np.concatenate([repeated, np.arange(start, end)])
    positions = row.positions[places]
    positions[: len(repeated)] = np.arange(len(repeated))[:, None]
    positions[len(repeated) :] += len(repeated) - row.positions[start, 0]
    loss = row.loss[places]
    loss[: len(repeated)] = False
    slots = np.flatnonzero(row.is_image)
    pictures, first = [], 0
    for picture in row.pictures:
        if start <= slots[first] < end:
            pictures.append(picture)
        first += sum(picture.slots_per_crop)
    return Row(row.ids[places], loss, row.is_image[places], positions, tuple(pictures), row.sample_id)


def _with_targets(rows: list[Row]) -> list[Row]:
    """Those that teach anything, named in order. A first token is never a target: nothing stands before it."""
    kept = [row for row in rows if row.loss[1:].any()]
    return [replace(row, sample_id=f"{row.sample_id}#{n}" if n else row.sample_id) for n, row in enumerate(kept)]
