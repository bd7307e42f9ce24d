"""What is asked of a model: prompts, a folder of pictures or a JSONL file, read into `Asked`, one for each answer.

In: arguments, or lines such as {"id": "a", "prompt": "Is {image} like {image}?", "images": ["a.png", "b.png"], "top_k": 5}.
Out: `Asked`, in order; `request` makes of it what the model reads. A fault of one line is that request's alone: it is kept as
its `fault`. Only what makes answers and requests hard to tell apart refuses them all.
"""

import codecs
import glob
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.commands.arguments import FIELDS

if TYPE_CHECKING:
    from data.sample import Part
    from vlm.inference.generate import Request
    from vlm.inference.sampling import Sampling
    from vlm.model import VisionLanguageModel

MARK = "{image}"
MAX_PICTURE_BYTES = 2**28  # of a file; the pixels have a limit of their own (data/image.py)


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**53)  # what a float can hold


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


# The keys of a JSONL line: what each needs, and whether it has it.
CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "id": ("a text or a whole number", lambda value: _is_whole(value) or (_is_text(value) and value != "")),
    "prompt": ("a text", _is_text),
    "images": ("a list of paths", _is_texts),
    "max_new_tokens": ("a whole number", _is_whole),
    "temperature": ("a number", _is_number),
    "top_k": (
        "a whole number below 2**31 or null",
        lambda value: value is None or (_is_whole(value) and value < 2**31),
    ),
    "top_p": ("a number or null", lambda value: value is None or _is_number(value)),
    "repetition_penalty": ("a number", _is_number),
    "stop": (
        "a text or a list of texts, none of them empty,",
        lambda value: (_is_text(value) and value != "") or (_is_texts(value) and "" not in value),
    ),
    "seed": ("a whole number", _is_whole),
}


@dataclass(frozen=True)
class Asked:
    """One request as its user wrote it; its pictures are not read yet."""

    id: str | int
    prompt: str
    images: tuple[Path, ...]
    sampling: "Sampling | None"  # None where there is a fault
    fault: str | None = None  # why it cannot be asked


def ask_prompts(prompts: Sequence[str], images: Sequence[Path], sampling: "Sampling") -> list[Asked]:
    """Each prompt about all of the pictures; their ids count from 1."""
    return [Asked(number, prompt, tuple(images), sampling) for number, prompt in enumerate(prompts, start=1)]


def ask_about_pictures(places: Sequence[str], prompt: str, sampling: "Sampling") -> list[Asked]:
    """The prompt about each picture of the folders, files or patterns, sorted by name; the picture's path is the id.

    Raises:
        ValueError: there is no picture at one of them.
    """
    found = dict.fromkeys(path for place in places for path in find_pictures(place))
    return [Asked(str(path), prompt, (path,), sampling) for path in found]


def find_pictures(place: str) -> list[Path]:
    """The pictures directly in a folder, or every file that a pattern such as `photos/*.jpg` names.

    Raises:
        ValueError: there is none.
    """
    from data.sample import IMAGE_EXTENSIONS

    if Path(place).is_dir():
        found = [path for path in Path(place).iterdir() if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS]
        needed = f"no file there ends in {', '.join(IMAGE_EXTENSIONS)}"
    else:
        found = [Path(name) for name in glob.glob(place) if not Path(name).is_dir()]
        needed = "no file has that name or fits that pattern"
    if not found:
        raise ValueError(
            f"no pictures at {place}: {needed}; give --images a folder or a pattern such as 'photos/*.jpg'"
        )
    return sorted(found)


def ask_lines(source: str, sampling: "Sampling") -> list[Asked]:
    """The requests of a JSONL file, or of standard input for `-`; pictures lie relative to the file's folder.

    Args:
        sampling: what a line does not set itself.

    Raises:
        ValueError: the file cannot be read or has no line, or two lines have the same id.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the requests {source}: {error.strerror or error}") from error
    folder = Path() if source == "-" else Path(source).parent
    source = "standard input" if source == "-" else source
    data = data.removeprefix(codecs.BOM_UTF8)  # as some editors write it
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise ValueError(f'{source} has no requests; give a line such as {{"id": "a", "prompt": "..."}} for each')
    asked: list[Asked] = []
    line_of: dict[str, int] = {}
    for number, line in lines:
        one = read_line(line, number, folder, sampling)
        if str(one.id) in line_of:
            raise ValueError(
                f"{source}: lines {line_of[str(one.id)]} and {number} have the same id {one.id!r}; "
                "give each line an id of its own, as answers are kept by it"
            )
        line_of[str(one.id)] = number
        asked.append(one)
    return asked


def read_line(line: bytes, number: int, folder: Path, sampling: "Sampling") -> Asked:
    """One line of JSONL. What is wrong with it becomes its fault; without an id it is called by its number."""
    fields: Mapping[str, Any] = {}
    try:
        value = _json(line)
        if not isinstance(value, dict):
            raise ValueError(f"needs to be a JSON object, got {type(value).__name__}")
        fields = value
        for name, content in fields.items():
            if name not in CHECKS:
                raise ValueError(f"has the unknown key {name[:80]!r}; known keys: {', '.join(CHECKS)}")
            needed, is_right = CHECKS[name]
            if not is_right(content):
                raise ValueError(f"needs {needed} as {name}, got {content!r:.80}")
        if "prompt" not in fields:
            raise ValueError("has no prompt")
        own = {name: fields[name] for name in FIELDS if name in fields}
        own |= {name: float(value) for name, value in own.items() if CHECKS[name][1](0.5) and value is not None}
        if "stop" in own:
            own["stop"] = (own["stop"],) if isinstance(own["stop"], str) else tuple(own["stop"])
        images = tuple(folder / image for image in fields.get("images", ()))
        return Asked(fields.get("id", f"line {number}"), fields["prompt"], images, replace(sampling, **own))
    except ValueError as error:
        # What can be told of a bad line is: its answer is found by its id.
        name, prompt = (fields.get(key) if CHECKS[key][1](fields.get(key)) else None for key in ("id", "prompt"))
        return Asked(f"line {number}" if name is None else name, prompt or "", (), None, f"line {number} {error}")


def _json(line: bytes) -> Any:
    from data.sample import strict_json

    try:
        return strict_json(line)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error


def request(asked: Asked, model: "VisionLanguageModel") -> "Request":
    """What the model reads. Pictures are read here, and decoded only when their turn comes.

    Raises:
        ValueError: it cannot be asked; says why.
    """
    from data.text import prompt_row
    from vlm.inference.generate import Request

    content, images = contents(asked)
    if images and model.layout is None:
        raise ValueError("this model has no vision encoder and takes no pictures; ask without them")
    assert asked.sampling is not None
    row = prompt_row(content, images, model.tokenizer, model.layout)
    return Request(replace(row, sample_id=str(asked.id)), asked.sampling)


def contents(asked: Asked) -> "tuple[tuple[Part, ...], dict[str, bytes]]":
    """The parts of the prompt and the pictures that they name.

    Raises:
        ValueError: something is wrong with it that can be told without a model.
    """
    if asked.fault is not None:
        raise ValueError(asked.fault)
    images = {f"{place}{path.suffix.lower() or '.png'}": read_picture(path) for place, path in enumerate(asked.images)}
    return prompt_parts(asked.prompt, list(images)), images


def read_picture(path: Path) -> bytes:
    """The bytes of a picture file, its header checked.

    Raises:
        ValueError: it cannot be read, or is no picture.
    """
    from data.image import check_header
    from data.sample import BadRecord

    if "\0" in str(path):
        raise ValueError(f"cannot read the picture {str(path)!r}: no file name has a NUL character; mend the path")
    try:
        _require_file(path)
        with path.open("rb") as file:
            data = file.read(MAX_PICTURE_BYTES)
        check_header(data)
    except OSError as error:
        raise ValueError(f"cannot read the picture {path}: {error.strerror or error}") from error
    except BadRecord as error:
        raise ValueError(f"{path}: {error}") from error
    return data


def _require_file(path: Path) -> None:
    """Refuse what has no end, what may never come, and what would fill the memory, before it is opened."""
    found = path.stat()
    told, size, most = f"cannot read the picture {path}: it", found.st_size, MAX_PICTURE_BYTES
    if not stat.S_ISREG(found.st_mode):
        kind = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe"}.get(stat.S_IFMT(found.st_mode), "device")
        raise ValueError(f"{told} is a {kind}; give the path of a regular file")
    if size > most:
        raise ValueError(f"{told} has {size:,} bytes, the limit is {most:,}; give a smaller picture")


def picture_fault(images: Sequence[Path]) -> str | None:
    """What is wrong with the first of these pictures that cannot be decoded, by its file's name; None if all can."""
    from data.image import decode

    for path in images:
        try:
            data = read_picture(path)
        except ValueError as error:
            return str(error)  # names the file
        try:
            decode(data)
        except ValueError as error:
            return f"{path}: {error}"
    return None


def prompt_parts(prompt: str, images: Sequence[str]) -> "tuple[Part, ...]":
    """Pictures where the prompt has marks, or else before it.

    Raises:
        ValueError: there are marks, but not one for each picture; nothing is asked; or it is no text.
    """
    from data.sample import Part

    require_characters(prompt, "the prompt")
    texts = prompt.split(MARK)
    if len(texts) == 1:
        texts = [""] * len(images) + texts
    if len(texts) != len(images) + 1:
        raise ValueError(
            f"the prompt has {len(texts) - 1} {MARK} marks but {len(images)} pictures were given; "
            "give one picture for each mark, or no mark: the pictures then come first"
        )
    if not any(text.strip() for text in texts) and not images:
        raise ValueError("the prompt is empty; ask something")
    parts: list[Part] = []
    for place, text in enumerate(texts):
        if text:
            parts.append(Part(text=text))
        if place < len(images):
            parts.append(Part(image=images[place]))
    return tuple(parts)


def require_characters(text: str, what: str) -> None:
    """Refuse bytes of a command line that are no UTF-8: Python keeps them as lone surrogates, which no tokenizer takes.

    Raises:
        ValueError: says where they are.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is not UTF-8 from character {error.start} on; give it in UTF-8") from None
