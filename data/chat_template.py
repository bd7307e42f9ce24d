"""A pretrained model's chat template: conversations to text, with the place of every message, picture and end of an answer.

In: messages. Out: a `Chat`. What users say is marked with private-use characters before the template sees it, so that
afterwards it is known which of the text is theirs: only what the template itself wrote can be a special token. The
template is also asked without the marks, and must write the same: one that looks at what a message says, or drops, moves
or changes it, is refused for that conversation. So is one that writes what was said before anew once it is answered: a
model would then read in training what it never meets in use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.sample import Message, Part
from data.template_sandbox import GENERATION_CLOSE, GENERATION_OPEN, TemplateFault, TemplateSandbox

IMAGE, OPEN, CLOSE = "\U0010f0e0", "\U0010f0e1", "\U0010f0e2"
MARKS = IMAGE + OPEN + CLOSE + GENERATION_OPEN + GENERATION_CLOSE
Span = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """A special token that the template wrote, or a picture's place."""

    start: int
    end: int
    id: int


@dataclass(frozen=True)
class Chat:
    """What a template wrote. Places are characters of `text`, in which a picture may be `IMAGE`."""

    text: str
    said: tuple[Span, ...]  # texts of the messages in order, without the space around them
    spoken: tuple[
        Span | None, ...
    ]  # of each message: from its first text to its last; None where it is a picture alone
    generated: tuple[Span, ...]  # by the template's own account
    marked: str  # the text with marks around what was said, to compare by


class ChatTemplate:
    """A template, tried on a small conversation.

    Args:
        source: Jinja.
        tokens: what it may write by name, such as bos_token.
        special: the tokenizer's special tokens with their ids.
        image: the one that is a picture's slot.

    Attributes:
        stop_token, stop: what ends an answer, and its id.
        last, header: how a prompt ends: its last special token (empty if there is none), and the text behind it.
        lead, trail: what the assistant says before and behind the text of each answer.
        user_header, assistant_header: how a user's turn and an answer begin.

    Raises:
        TemplateFault: the template cannot be used.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], special: Mapping[str, int], image: str) -> None:
        self._sandbox, self._tokens = TemplateSandbox(source), dict(tokens)
        self._special, self._image = dict(special), special[image]
        longest = sorted(special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest)))
        self._is_listed, self._is_listed_with_images = False, False  # the content as a list of parts
        asked, said, again = (
            Message(role, (Part(text=text),)) for role, text in (("user", "q"), ("assistant", "a"), ("user", "r"))
        )
        try:
            prompt = self.write([asked], opens=True)
        except TemplateFault as fault:
            self._is_listed = True
            try:
                prompt = self.write([asked], opens=True)
            except TemplateFault:
                raise fault from None
        self._is_listed_with_images = self._lists_images()
        whole = self.write([asked, said])
        (seam,) = self.seams([asked, said], whole)
        stop = self._end_of(whole, 1)
        if stop is None:
            raise TemplateFault("ends no answer with a special token, so that a model could not learn to stop")
        self.stop, self.stop_token = stop.id, whole.text[stop.start : stop.end]
        if self.has_generation and not any(start <= stop.start < stop.end <= end for start, end in whole.generated):
            raise TemplateFault(
                f"leaves {self.stop_token}, which ends an answer, out of its generation block, so that a model would not learn to stop"
            )
        first, behind = whole.spoken[1] or (seam, stop.start)
        self.lead, self.trail = whole.text[seam:first], whole.text[behind : stop.start]
        before = self.places(prompt)
        self.last = prompt.text[before[-1].start : before[-1].end] if before else ""
        self.header = prompt.text[before[-1].end if before else 0 :]
        third = self.write([asked, said, again])
        end = len(whole.text) if third.marked.startswith(whole.marked) else stop.end
        self.user_header = third.text[end : (third.spoken[2] or (end, end))[0]]
        closed = self.write([asked])
        is_opened = prompt.marked.startswith(closed.marked)
        self.assistant_header = prompt.text[len(closed.text) :] if is_opened else ""

    @property
    def has_generation(self) -> bool:
        """True where the template itself says what the assistant generates."""
        return self._sandbox.has_generation

    def write(self, messages: Sequence[Message], opens: bool = False, is_checked: bool = True) -> Chat:
        """The conversation as text.

        Args:
            opens: for the assistant to speak next.
            is_checked: ask also without marks; for parts of what was asked before it can be spared.

        Raises:
            TemplateFault: the template refuses the conversation, or is refused for it.
        """
        for message in messages:
            for part in message.parts:
                if part.text is not None and any(mark in part.text for mark in MARKS):
                    raise TemplateFault(f"cannot take a text with the private-use characters {MARKS.encode('utf-8')!r}")
        chat = _parse(self._render(messages, opens, is_marked=True), messages, [self._texts(one) for one in messages])
        if is_checked:
            plain = self._render(messages, opens, is_marked=False)
            if chat.text != plain.replace(GENERATION_OPEN, "").replace(GENERATION_CLOSE, ""):
                raise TemplateFault("writes a conversation differently by what a message says, which is not supported")
        return chat

    def seams(self, messages: Sequence[Message], chat: Chat) -> list[int]:
        """Where the assistant begins to speak, for each of its messages: there a prompt for it ends.

        Raises:
            TemplateFault: a prompt for one of them is not how the conversation begins.
        """
        found = []
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self.write(messages[:number], opens=True, is_checked=False)
            if not chat.marked.startswith(prompt.marked):
                raise TemplateFault(
                    f"writes what stands before message {number + 1} differently once it is answered (it drops earlier "
                    "thinking, moves the system's text, or opens an answer otherwise than it writes one)"
                )
            found.append(len(prompt.text))
        return found

    def places(self, chat: Chat) -> list[Place]:
        """The special tokens that the template wrote, and the pictures, in order."""
        found = []
        begins = [0, *(end for _, end in chat.said)]
        ends = [*(start for start, _ in chat.said), len(chat.text)]
        for at, end in zip(begins, ends, strict=True):
            matches = self._pattern.finditer(chat.text, at, end)
            found += [Place(match.start(), match.end(), self._special[match.group()]) for match in matches]
        found += [Place(match.start(), match.end(), self._image) for match in re.finditer(IMAGE, chat.text)]
        return sorted(found, key=lambda place: place.start)

    def stops(self, messages: Sequence[Message], chat: Chat) -> list[Place]:
        """The token that ends each of the assistant's messages.

        Raises:
            TemplateFault: one has none, or another than the others.
        """
        found = []
        for number, message in enumerate(messages):
            if message.role == "assistant":
                stop = self._end_of(chat, number)
                if stop is None or stop.id != self.stop:
                    raise TemplateFault(f"does not end message {number + 1} with {self.stop_token} as it ends others")
                found.append(stop)
        return found

    def _end_of(self, chat: Chat, number: int) -> Place | None:
        """The first special token behind a message, if it stands before the next one."""
        own = chat.spoken[number]
        if own is None:
            return None
        limit = next((span[0] for span in chat.spoken[number + 1 :] if span is not None), len(chat.text))
        return next((place for place in self.places(chat) if own[1] <= place.start < limit), None)

    def _lists_images(self) -> bool:
        """True where the template writes the picture's token for a part that is an image."""
        self._is_listed_with_images = True
        try:
            chat = self.write([Message("user", (Part(image="i"), Part(text="q")))])
        except TemplateFault:
            return False
        return sum(place.id == self._image for place in self.places(chat)) == 1

    def _lists(self, message: Message) -> bool:
        has_image = any(part.image is not None for part in message.parts)
        return self._is_listed_with_images if has_image else self._is_listed

    def _texts(self, message: Message) -> list[str]:
        """What the template is given of a message, each text by itself."""
        if self._lists(message):
            return [part.text for part in message.parts if part.text is not None]
        return ["".join(IMAGE if part.text is None else part.text for part in message.parts)]

    def _render(self, messages: Sequence[Message], opens: bool, is_marked: bool) -> str:
        given = []
        for message in messages:
            texts = iter(_with_marks(text) if is_marked else text for text in self._texts(message))
            content: Any = None
            if self._lists(message):
                content = [
                    {"type": "image"} if part.text is None else {"type": "text", "text": next(texts)}
                    for part in message.parts
                ]
            given.append({"role": message.role, "content": next(texts) if content is None else content})
        values = {"messages": given, "add_generation_prompt": opens, "tools": None, "documents": None}
        return self._sandbox.render(self._tokens | values)


def _with_marks(text: str) -> str:
    """Marks inside the space around a text: templates may trim it."""
    core = text.strip()
    at = text.find(core) if core else len(text)
    return f"{text[:at]}{OPEN}{core}{CLOSE}{text[at + len(core) :]}"


def _parse(written: str, messages: Sequence[Message], texts: Sequence[Sequence[str]]) -> Chat:
    """Take the marks out, and see that everything is there once and in order."""
    plain: list[str] = []
    size = 0
    opened: dict[str, int | None] = {OPEN: None, GENERATION_OPEN: None}
    spans: dict[str, list[Span]] = {OPEN: [], GENERATION_OPEN: []}
    for piece in re.split(f"([{OPEN}{CLOSE}{GENERATION_OPEN}{GENERATION_CLOSE}])", written):
        if piece in (OPEN, GENERATION_OPEN):
            if opened[piece] is not None:
                raise _changed()
            opened[piece] = size
        elif piece in (CLOSE, GENERATION_CLOSE):
            kind = OPEN if piece == CLOSE else GENERATION_OPEN
            start = opened[kind]
            if start is None:
                raise _changed()
            spans[kind].append((start, size))
            opened[kind] = None
        else:
            plain.append(piece)
            size += len(piece)
    text = "".join(plain)
    said = spans[OPEN]
    wanted = [one.strip() for own in texts for one in own]
    if any(start is not None for start in opened.values()) or [text[start:end] for start, end in said] != wanted:
        raise _changed()
    spoken: list[Span | None] = []
    rest = iter(said)
    for own in texts:
        mine = [next(rest) for _ in own]
        spoken.append((mine[0][0], mine[-1][1]) if mine else None)
    marked = written.replace(GENERATION_OPEN, "").replace(GENERATION_CLOSE, "")
    return Chat(text, tuple(said), tuple(spoken), tuple(spans[GENERATION_OPEN]), marked)


def _changed() -> TemplateFault:
    return TemplateFault("drops, repeats, moves or changes what a message says, which is not supported")
