"""Ids of an answer to its text, as they come: never half a character, never a part of a stop string.

In: one id at a time. Out: the text that is certain now. The pieces together are the whole text, and each id costs the same
however long the answer is.
"""

from collections.abc import Sequence

from data.tokenizer import Tokenizer

UNKNOWN = "\ufffd"  # what decoding gives for bytes that make no character, yet or at all
CONTEXT = 4  # ids decoded again before new ones: some tokenizers write a token at the start of a text differently
LONGEST = 12  # ids that wait for the rest of a character; one has 4 bytes at most, so what waits longer is none


class Characters:
    """Decodes ids one by one. For a byte-level tokenizer the pieces are exactly the text of all ids decoded at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # the last ids that were told
        self._known = ""  # their text
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """The text that this id completes; empty while a character may lack its end."""
        self._waiting.append(token)
        text = self._text()
        if not text.endswith(UNKNOWN):
            self._tell(len(self._waiting))
            return text
        return "" if len(self._waiting) < LONGEST else self._break()

    def rest(self) -> str:
        """What waits, as it stands; for the end of the answer."""
        text = self._text()
        self._waiting = []
        return text

    def _text(self) -> str:
        return self._tokenizer.decode(self._context + self._waiting)[len(self._known) :]

    def _break(self) -> str:
        """Tell all but the last few of a run of bytes that make no characters.

        A character, or what looks like the beginning of one, has 4 ids at most, and cut in two it decodes to more signs:
        of four neighbouring places one at least is no such cut, and there the two texts are the whole.
        """
        whole = self._tokenizer.decode(self._context + self._waiting)
        for kept in (4, 5, 6, 7):
            told = self._tokenizer.decode(self._context + self._waiting[:-kept])
            if told + self._tokenizer.decode(self._waiting[-kept:]) == whole:
                break
        new = told[len(self._known) :]
        self._tell(len(self._waiting) - kept)
        return new

    def _tell(self, count: int) -> None:
        self._context = (self._context + self._waiting[:count])[-CONTEXT:]
        self._known = self._tokenizer.decode(self._context)
        del self._waiting[:count]


class AnswerText:
    """The text of an answer so far.

    Args:
        tokenizer: of the model.
        stop: the text ends before the first of these that is complete; of those that end together, before the longest.

    Attributes:
        stopped: True once a stop string came.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._characters = Characters(tokenizer)
        self._stop = tuple(stop)
        self._held = ""  # may be the beginning of a stop string
        self._told: list[str] = []

    @property
    def text(self) -> str:
        """All that was told."""
        return "".join(self._told)

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        return self._tell(self._characters.push(token), is_last=False)

    def finish(self) -> str:
        """What was held back; the answer is complete."""
        return self._tell(self._characters.rest(), is_last=True)

    def _tell(self, new: str, is_last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            told, self._held = text[: min(found)[1]], ""
        else:
            size = len(text) if is_last else len(text) - self._overlap(text)
            told, self._held = text[:size], text[size:]
        self._told.append(told)
        return told

    def _overlap(self, text: str) -> int:
        """Characters at the end of the text with which a stop string may begin."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        ends = (text[-size:] for size in range(min(longest, len(text)), 0, -1))
        return next((len(end) for end in ends if any(stop.startswith(end) for stop in self._stop)), 0)
