"""Conversations and prompts as a chat template has them, as rows.

In: messages. Out: a `Row`. The text between two special tokens is encoded by itself, with those tokens beside it: so a
prompt has the very tokens with which the conversation begins that it is learned from, whatever is said later, and text
that spells a special token stays text. Loss: what the template's generation blocks hold; without them, from where a
prompt for the answer ends to the token that ends it.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.chat_template import Chat, ChatTemplate
from data.image import ImageLayout
from data.row import Row, RowWriter
from data.sample import BadRecord, Message, Part, Sample
from data.template_sandbox import TemplateFault
from data.tokenizer import Tokenizer

REASON = "refused by the chat template"
Token = tuple[int, int, int]  # id, and the characters that it stands for


@dataclass(frozen=True)
class _Encoded:
    tokens: list[Token]
    seams: list[int]  # tokens before each of the chat's seams


def conversation_by_template(
    sample: Sample,
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    layout: ImageLayout | None,
    augmentation: int,
) -> Row:
    """A conversation to train on.

    Raises:
        BadRecord: the template refuses it, or a picture's header is bad.
    """
    try:
        chat = template.write(messages)
        seams = template.seams(messages, chat)
        stops = template.stops(messages, chat)
    except TemplateFault as fault:
        raise _refused(f"record {sample.id!r}", fault) from None
    encoded = _encode(chat, tokenizer, template, seams)
    starts = [start for _, start, _ in encoded.tokens]
    loss = [False] * len(encoded.tokens)
    if template.has_generation:
        for start, end in chat.generated:
            for n, token in enumerate(encoded.tokens):
                loss[n] |= token[1] < end and token[2] > start
    else:
        for first, stop in zip(encoded.seams, stops, strict=True):
            last = bisect_left(starts, stop.start)
            loss[first : last + 1] = [True] * (last + 1 - first)
    writer = RowWriter(sample.id, sample.images, tokenizer, layout, augmentation)
    _write(writer, encoded.tokens, loss, messages, tokenizer, _turns(chat, messages, template, seams, starts))
    return writer.row()


def prompt_by_template(
    content: Sequence[Part],
    images: Mapping[str, bytes],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    layout: ImageLayout | None,
) -> Row:
    """One user turn, opened for the assistant."""
    messages = [Message("user", tuple(content))]
    tokens = _encode(_chat(messages, template), tokenizer, template, []).tokens
    writer = RowWriter("prompt", images, tokenizer, layout, 0)
    _write(writer, tokens, [False] * len(tokens), messages, tokenizer)
    return writer.row()


def opening_by_template(system: str | None, tokenizer: Tokenizer, template: ChatTemplate) -> Row:
    """How a conversation begins: all up to the last special token before the user's first text."""
    writer = RowWriter("conversation", {}, tokenizer, None, 0)
    ids = _opening([] if system is None else [Message("system", (Part(text=system),))], tokenizer, template)
    writer.tokens(ids, [False] * len(ids))
    return writer.row()


def turn_by_template(
    content: Sequence[Part],
    images: Mapping[str, bytes],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    layout: ImageLayout | None,
    time: int,
    before: Sequence[Message],
) -> Row:
    """What a further user turn adds behind the token that ended the last answer, opened for the assistant."""
    # An answer of no words is none for many templates; what it said does not change what stands behind it.
    heard = [one if _text(one) or one.role != "assistant" else Message(one.role, (Part(text="."),)) for one in before]
    messages = [*heard, Message("user", tuple(content))]
    chat = _chat(messages, template)
    encoded = _encode(chat, tokenizer, template, [])
    answered = [number for number, message in enumerate(before) if message.role == "assistant"]
    if answered:
        try:
            template.seams(messages, chat)
            stop = template.stops(messages, chat)[-1]
        except TemplateFault as fault:
            raise _refused("this conversation", fault) from None
        begin = bisect_left([start for _, start, _ in encoded.tokens], stop.start) + 1
    else:
        opening = _opening(before, tokenizer, template)
        begin = len(opening)
        if [number for number, _, _ in encoded.tokens[:begin]] != opening:
            raise _refused("this conversation", TemplateFault("begins it differently by what is said in it"))
    writer = RowWriter("conversation", images, tokenizer, layout, 0, time)
    tokens = encoded.tokens
    shown = sum(number == tokenizer.image for number, _, _ in tokens[:begin])
    _write(writer, tokens[begin:], [False] * (len(tokens) - begin), messages, tokenizer, shown=shown)
    return writer.row()


def _opening(before: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    chat = _chat([*before, Message("user", (Part(text="?"),))], template)
    first = (chat.spoken[-1] or (0, 0))[0]
    special = [place.end for place in template.places(chat) if place.end <= first]
    tokens = _encode(chat, tokenizer, template, []).tokens
    count = sum(end <= special[-1] for _, _, end in tokens) if special else 1
    return [number for number, _, _ in tokens[:count]]


def _text(message: Message) -> str:
    return "".join(part.text or "" for part in message.parts).strip()


def _chat(messages: Sequence[Message], template: ChatTemplate) -> Chat:
    try:
        return template.write(messages, opens=True)
    except TemplateFault as fault:
        raise _refused("this conversation", fault) from None


def _refused(what: str, fault: TemplateFault) -> BadRecord:
    return BadRecord(f"{what}: the tokenizer's chat template {fault}", REASON)


def _encode(chat: Chat, tokenizer: Tokenizer, template: ChatTemplate, seams: Sequence[int]) -> _Encoded:
    """Section by section: the text up to a special token, then the token."""
    tokens: list[Token] = []
    before: list[int] = []
    rest = list(seams)
    left, at = "", 0
    image = tokenizer.special_names["<|image|>"]
    for place in (*template.places(chat), None):
        end = len(chat.text) if place is None else place.start
        right = "" if place is None else image if place.id == tokenizer.image else chat.text[place.start : place.end]
        cut = rest.pop(0) - at if rest and rest[0] <= end else None
        if at < end:
            head, body = _section(tokenizer, left, chat.text[at:end], right, cut)
            before += [len(tokens) + len(head)] if cut is not None else []
            tokens += [(number, at + start, at + stop) for number, start, stop in (*head, *body)]
        elif cut is not None:
            before.append(len(tokens))
        if place is not None:
            tokens.append((place.id, place.start, place.end))
            left, at = right, place.end
    return _Encoded(tokens, before)


def _section(
    tokenizer: Tokenizer, left: str, text: str, right: str, cut: int | None
) -> tuple[list[Token], list[Token]]:
    """The tokens of a text, with those of its first `cut` characters as they are where nothing stands behind them."""
    whole = tokenizer.encode_between(left, text, right)
    if not cut:
        return [], whole
    head = tokenizer.encode_between(left, text[:cut], "")
    if [token[0] for token in whole[: len(head)]] == [token[0] for token in head]:
        return head, whole[len(head) :]
    body = tokenizer.encode_between("", text[cut:], right)
    return head, [(number, cut + start, cut + end) for number, start, end in body]


def _turns(
    chat: Chat, messages: Sequence[Message], template: ChatTemplate, seams: Sequence[int], starts: Sequence[int]
) -> list[tuple[str, int, int]]:
    """Of each message its role, its first token and its first behind the mark of the role."""
    turns, at, rest = [], 0, list(seams)
    for message, spoken in zip(messages, chat.spoken, strict=True):
        if message.role == "assistant":
            body = rest.pop(0)
            is_marked = chat.text[at:body].endswith(template.assistant_header)
            start = body - len(template.assistant_header) if is_marked else body
        else:
            until = at if spoken is None else spoken[0]
            found = chat.text.rfind(template.user_header, at, until) if template.user_header else -1
            start = at if found < 0 or message.role == "system" else found
            body = start if start != found else found + len(template.user_header)
        turns.append((message.role, bisect_left(starts, start), bisect_left(starts, body)))
        at = at if spoken is None else spoken[1]
    return turns


def _write(
    writer: RowWriter,
    tokens: Sequence[Token],
    loss: Sequence[bool],
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    turns: Sequence[tuple[str, int, int]] = (),
    shown: int = 0,
) -> None:
    """Tokens and pictures in order; the first `shown` pictures stand before them."""
    names = [part.image for message in messages for part in message.parts if part.image is not None][shown:]
    count = sum(number == tokenizer.image for number, _, _ in tokens)
    if count != len(names):
        fault = TemplateFault(f"writes {count} places for {len(names)} pictures")
        raise _refused(f"record {writer.sample_id!r}", fault)
    ids = [number for number, _, _ in tokens]
    shown_at = [place for place, number in enumerate(ids) if number == tokenizer.image]
    begins = {start: [turn for turn in turns if turn[1] == start] for _, start, _ in turns}
    pictures = iter(names)
    at = 0
    for place in sorted({*shown_at, *begins, len(ids)}):
        writer.tokens(ids[at:place], loss[at:place])
        at = place
        for role, start, body in begins.get(place, []):
            writer.turn(role, body - start)
        if place < len(ids) and ids[place] == tokenizer.image:
            writer.picture(next(pictures))
            at += 1
