"""One record of a shard: parsed, checked, and nothing else.

In: the members of one record (extension -> bytes). Out: a `Sample` to train on, or a `Question` to score.
Every fault of the bytes is a `BadRecord` that names the record; callers skip the record and count the fault.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from data.strict_json import MAX_JSON_BYTES, strict_json

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_JSON_BYTES",
    "MAX_TEXT_BYTES",
    "ROLES",
    "BadRecord",
    "Message",
    "Part",
    "Question",
    "Sample",
    "parse_question",
    "parse_sample",
    "pictures_of",
    "strict_json",
]

MAX_TEXT_BYTES = 16 * 2**20
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
ROLES = ("system", "user", "assistant")


class BadRecord(ValueError):
    """A fault of one record: the message says which record and what is wrong with it.

    Args:
        message: names the record and the fault.
        reason: the kind of fault in a few words, the same for all records that have it; faults are counted by it.
    """

    def __init__(self, message: str, reason: str = "bad record") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Part:
    """A piece of a document: a text, or a picture named by its member's extension (`"0.png"`). Exactly one is set."""

    text: str | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.image is None):
            raise ValueError(f"a part is either a text or an image, got text={self.text!r} and image={self.image!r}")


@dataclass(frozen=True)
class Message:
    role: str  # "system", "user" or "assistant"
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Sample:
    """A record to train on: a document (`content`) or a conversation (`messages`), never both."""

    key: str
    id: str
    content: tuple[Part, ...] | None
    messages: tuple[Message, ...] | None
    images: Mapping[str, bytes]  # member extension -> the picture as stored


@dataclass(frozen=True)
class Question:
    """A record to score by: the prompt's parts and what the answer is compared with."""

    key: str
    id: str
    content: tuple[Part, ...]
    images: Mapping[str, bytes]
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer: int | None = None  # index into choices
    category: str | None = None
    group: str | None = None
    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1 in pixels
    meta: Mapping[str, Any] = field(default_factory=dict)

    def without_images(self) -> "Question":
        """The blind question: the same words, no picture."""
        return replace(self, content=tuple(part for part in self.content if part.image is None), images={})

    @property
    def truth(self) -> str:
        """The text of the right answer."""
        if self.answer is not None:
            return self.choices[self.answer]
        if self.answers:
            return self.answers[0]
        raise ValueError(f"question {self.id!r} has neither answers nor choices, so it has no true text")


def parse_sample(key: str, members: Mapping[str, bytes]) -> Sample:
    """Read a record to train on: the canonical JSON, or a pair as img2dataset writes it.

    Args:
        key: the record's key in its shard.
        members: extension -> bytes; those that are neither JSON, text nor picture are ignored.

    Raises:
        BadRecord: names the key and what is wrong.
    """
    images = pictures_of(members)
    fields = _fields(key, members)
    kinds = [name for name in ("content", "messages") if name in fields]
    if len(kinds) == 2:
        _fail(key, "has both content and messages; a record is either a document or a conversation")
    if kinds == ["content"]:
        content = _parts(key, fields["content"], "content")
        _check_references(key, content, images)
        return Sample(key, _id(key, fields), content, None, images)
    if kinds == ["messages"]:
        messages = _messages(key, fields["messages"])
        _check_references(key, tuple(part for message in messages for part in message.parts), images)
        return Sample(key, _id(key, fields), None, messages, images)
    return Sample(key, key, _pair(key, fields, members, images), None, images)


def parse_question(key: str, members: Mapping[str, bytes]) -> Question:
    """Read a benchmark record.

    Raises:
        BadRecord: names the key and what is wrong.
    """
    images = pictures_of(members)
    fields = _fields(key, members)
    if "content" not in fields:
        _fail(key, 'has no "content"; a question needs it, as text or as a list of parts')
    content = _parts(key, fields["content"], "content")
    _check_references(key, content, images)
    answers = _strings(key, fields, "answers")
    choices = _strings(key, fields, "choices")
    answer = fields.get("answer")
    if choices and (type(answer) is not int or not 0 <= answer < len(choices)):
        _fail(key, f"has {len(choices)} choices, so answer must be a whole number below that, got {answer!r:.80}")
    if answer is not None and not choices:
        _fail(key, "has an answer but no choices for it to point into; free answers go into answers: [text]")
    if len(set(choices)) != len(choices):
        _fail(key, f"has the same choice twice: {list(choices)!r:.300}")
    box = _box(key, fields.get("box"))
    if not answers and not choices and box is None:
        _fail(key, "has nothing to score by; give answers, or choices with answer, or box")
    meta = fields.get("meta", {})
    if not isinstance(meta, dict):
        _fail(key, f"meta must be an object, got {type(meta).__name__}")
    category, group = _optional_string(key, fields, "category"), _optional_string(key, fields, "group")
    name = _id(key, fields)
    return Question(key, name, content, images, answers, choices, answer, category, group, box, meta)


def _fail(key: str, fault: str, reason: str = "bad record") -> NoReturn:
    raise BadRecord(f"record {key!r} {fault}", reason)


def pictures_of(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members of a record that are pictures."""
    return {name: data for name, data in members.items() if name.rsplit(".", 1)[-1] in IMAGE_EXTENSIONS}


def _fields(key: str, members: Mapping[str, bytes]) -> dict[str, Any]:
    if "json" not in members:
        return {}
    try:
        fields = strict_json(members["json"])
    except ValueError as error:
        _fail(key, f"cannot be read: {error}", "bad JSON")
    if not isinstance(fields, dict):
        _fail(key, f"needs a JSON object, got {type(fields).__name__}", "bad JSON")
    return fields


def _id(key: str, fields: Mapping[str, Any]) -> str:
    name = fields.get("id", key)
    if not isinstance(name, str) or not name:
        _fail(key, f"needs a text as id, got {name!r:.80}")
    return name


def _parts(key: str, value: object, where: str) -> tuple[Part, ...]:
    if isinstance(value, str):
        value = [{"type": "text", "text": value}]
    if not isinstance(value, list):
        _fail(key, f"needs a text or a list of parts in {where}, got {type(value).__name__}")
    parts = tuple(_part(key, part, f"{where}[{number}]") for number, part in enumerate(value))
    if not any(part.image or part.text for part in parts):
        _fail(key, f"has nothing in {where}")
    return parts


def _part(key: str, value: object, where: str) -> Part:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind not in ("text", "image") or not isinstance(value.get(kind), str):
        _fail(key, f'needs {{"type": "text", "text": ...}} or {{"type": "image", "image": "0.png"}} as {where}')
    return Part(text=value["text"]) if kind == "text" else Part(image=value["image"].lower())


def _messages(key: str, value: object) -> tuple[Message, ...]:
    if not isinstance(value, list):
        _fail(key, f"needs a list in messages, got {type(value).__name__}")
    messages = []
    for number, turn in enumerate(value):
        role = turn.get("role") if isinstance(turn, dict) else None
        if not isinstance(turn, dict) or role not in ROLES:
            _fail(key, f"needs a role ({', '.join(ROLES)}) in messages[{number}], got {role!r:.80}")
        messages.append(Message(role, _parts(key, turn.get("content"), f"messages[{number}].content")))
    if not any(message.role == "assistant" for message in messages):
        _fail(key, "has no assistant turn, so there is nothing to learn from it")
    return tuple(messages)


def _pair(
    key: str, fields: Mapping[str, Any], members: Mapping[str, bytes], images: Mapping[str, bytes]
) -> tuple[Part, ...]:
    caption: Any = fields.get("caption")
    if "txt" in members:
        if len(members["txt"]) > MAX_TEXT_BYTES:
            _fail(key, f"has a txt of {len(members['txt']):,} bytes, the limit is {MAX_TEXT_BYTES:,}", "bad text")
        try:
            caption = members["txt"].decode("utf-8")
        except UnicodeDecodeError as error:
            _fail(key, f"has a txt that is not UTF-8 (byte {error.start})", "bad text")
    if not isinstance(caption, str) or not caption.strip():
        needed = "content or messages in its JSON, or a picture with a txt or a caption in its JSON"
        _fail(key, f"needs {needed}; it has {_names(members) or 'no member'}", "missing member")
    if len(images) > 1:
        _fail(key, f"has {len(images)} pictures but no content that says where they go")
    return (*(Part(image=name) for name in images), Part(text=caption))


def _check_references(key: str, parts: tuple[Part, ...], images: Mapping[str, bytes]) -> None:
    named = {part.image for part in parts if part.image is not None}
    if missing := sorted(named - images.keys()):
        _fail(key, f"names the picture {missing[0]!r:.80} but has {_names(images) or 'none'}", "missing member")
    if unused := sorted(images.keys() - named):
        _fail(key, f"has the picture {unused[0]!r} but no part names it", "unused member")


def _names(members: Mapping[str, bytes]) -> str:
    """The first members of a record, for a message: it may have thousands."""
    return ", ".join(list(members)[:8]) + (f" and {len(members) - 8} more" if len(members) > 8 else "")


def _strings(key: str, fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        _fail(key, f"needs a list of texts as {name}, got {value!r:.80}")
    return tuple(value)


def _optional_string(key: str, fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        _fail(key, f"needs a text as {name}, got {value!r:.80}")
    return value


def _box(key: str, value: object) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(type(side) in (int, float) for side in value):
        _fail(key, f"needs four numbers x0, y0, x1, y1 as box, got {value!r:.80}")
    x0, y0, x1, y1 = (float(side) for side in value)
    if x0 >= x1 or y0 >= y1:
        _fail(key, f"has a box without area: {value!r:.80}")
    return x0, y0, x1, y1
