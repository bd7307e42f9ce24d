"""What a harness asks, as our models take it: texts with pictures, or messages; and its generation settings.

In: PIL pictures or paths, texts, messages, `generation_kwargs`. Out: a `Prompt` and a `Sampling`. A picture that was opened
from a file and not touched since is read from that file, so that its bytes are those that `vlm eval` reads.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, ImageOps

from data.sample import ROLES, BadRecord, Message, Part, Sample
from data.text import Row, join_rows, prompt_row, sample_row, turn_row
from vlm.inference.prompts import next_time
from vlm.inference.sampling import Sampling
from vlm.model import VisionLanguageModel

PLACE = "<image>"  # in a text: here goes the next picture
_NUMBERED = re.compile(r"<image (\d+)>")  # or the picture of this number, counted from 1
MAX_NEW_TOKENS = 1024  # where a task says nothing
# Settings of other models' pictures, which tasks give to every model.
_OF_OTHERS = {"image_aspect_ratio", "modalities", "max_pixels", "min_pixels", "use_cache", "output_scores"}


@dataclass(frozen=True)
class Prompt:
    """One request: messages, of which the last is the user's."""

    name: str  # for messages about it
    messages: tuple[Message, ...]
    images: Mapping[str, bytes]

    def identity(self) -> list[Any]:
        """All that the model sees, a picture by the hash of its bytes."""
        digest = {name: hashlib.sha256(data).hexdigest() for name, data in self.images.items()}
        return [
            [one.role, [[part.text, None if part.image is None else digest[part.image]] for part in one.parts]]
            for one in self.messages
        ]

    def row(self, model: VisionLanguageModel) -> Row:
        """The tokens, up to where the answer begins. One message alone is read as `vlm eval` reads a question.

        Raises:
            BadRecord: a picture that cannot be read; names the request.
            ValueError: the model takes no pictures.
        """
        *before, last = self.messages
        tokenizer, layout = model.tokenizer, model.layout
        try:
            if not before:
                row = prompt_row(last.parts, self.images, tokenizer, layout)
            else:
                history = sample_row(Sample(self.name, self.name, None, tuple(before), self.images), tokenizer, layout)
                turn = turn_row(last.parts, self.images, tokenizer, layout, next_time(history), before)
                row = join_rows([history, turn])
        except ValueError as error:
            kind = BadRecord if isinstance(error, BadRecord) else ValueError
            raise kind(f"{self.name}: {error}") from error
        return replace(row, sample_id=self.name)


def prompt_of_text(name: str, text: str, visuals: Sequence[Any] | None) -> Prompt:
    """A text and its pictures: where `<image>` or `<image 2>` stand for all of them, there, and else before the text.

    Raises:
        ValueError: something that is no picture.
    """
    given = [one for one in _flat(visuals) if one is not None]
    images = {_picture_name(place): picture_bytes(one, name) for place, one in enumerate(given)}
    return Prompt(name, (Message("user", tuple(_interleave(text, list(images)))),), images)


def prompt_of_messages(name: str, messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """Messages as lmms-eval's chat form has them: role, and content of type text or image.

    Raises:
        ValueError: another role or type, or the last message is not the user's.
    """
    images: dict[str, bytes] = {}
    read: list[Message] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"{name}: a message has the role {role!r}; known: {', '.join(ROLES)}")
        parts: list[Part] = []
        for one in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            if one.get("type") == "text":
                parts += [Part(text=one["text"])] if one["text"] else []
            elif one.get("type") == "image":
                image = _picture_name(len(images))
                images[image] = picture_bytes(one.get("url", one.get("image")), name)
                parts.append(Part(image=image))
            else:
                raise ValueError(f"{name}: a message holds {one.get('type')!r}; this model takes texts and pictures")
        read.append(Message(str(role), tuple(parts)))
    if not read or read[-1].role != "user":
        raise ValueError(f"{name}: the last message must be the user's, got {read[-1].role if read else 'none'}")
    return Prompt(name, tuple(read), images)


def picture_bytes(picture: object, name: str = "") -> bytes:
    """A picture as stored: of the file where it is still that of the file, else as PNG, which loses nothing.

    Raises:
        ValueError: it is no picture; `name` says whose.
    """
    if isinstance(picture, str | Path):
        if not Path(picture).is_file():
            raise ValueError(f"{name}: got {str(picture)[:100]!r} in place of a picture; this model takes pictures")
        return Path(picture).read_bytes()
    if not isinstance(picture, Image.Image):
        raise ValueError(f"{name}: got {type(picture).__name__} in place of a picture; this model takes pictures")
    # Pillow closes the file once pixels are read or changed, except that of a picture with several frames.
    if isinstance(picture, ImageFile.ImageFile) and getattr(picture, "fp", None) is not None:
        path = str(picture.filename or "")
        if path and Path(path).is_file() and getattr(picture, "n_frames", 1) == 1:
            return Path(path).read_bytes()
    upright = ImageOps.exif_transpose(picture)
    if not upright.mode.startswith("I"):  # 16 bits stay as they are
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    file = io.BytesIO()
    upright.save(file, "PNG", compress_level=1)
    return file.getvalue()


def sampling_of(settings: Mapping[str, Any], name: str = "", seed: int = 0) -> tuple[Sampling, tuple[str, ...]]:
    """`generation_kwargs` as ours, and the names of those that mean nothing to this model.

    Greedy where temperature is 0 or `do_sample` is false, whatever `top_p` says: so does everybody else.

    Raises:
        ValueError: a setting that makes no sense or that we do not have, such as beams; names the request.
    """
    told = {key: value for key, value in settings.items() if value is not None}
    length = told.pop("max_new_tokens", told.pop("max_gen_toks", MAX_NEW_TOKENS))
    if told.pop("num_beams", 1) != 1:
        raise ValueError(f"{name}: num_beams = {settings['num_beams']}, but this model has no beam search; set 1")
    until = told.pop("until", None) or ()
    sampled = told.pop("do_sample", None)
    temperature = float(told.pop("temperature", 1.0 if sampled else 0.0))
    temperature = 0.0 if sampled is False else temperature
    top_p, top_k, penalty = (told.pop(key, None) for key in ("top_p", "top_k", "repetition_penalty"))
    if temperature > 0:
        told_seed = int(told.pop("seed", 0)) + seed
        drawing: dict[str, Any] = {"top_p": top_p, "top_k": top_k or None, "seed": told_seed}
    else:
        drawing = {}
    try:
        sampling = Sampling(
            max_new_tokens=length,
            temperature=temperature,
            repetition_penalty=1.0 if penalty is None else penalty,
            stop=tuple(filter(None, (until,) if isinstance(until, str) else until)),
            **drawing,
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}; another setting: --gen_kwargs NAME=VALUE") from error
    return sampling, tuple(sorted(set(told) - _OF_OTHERS))


def key_of(*what: Any) -> str:
    """A name for all of this."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _picture_name(place: int) -> str:
    return f"{place}.png"


def _flat(visuals: Sequence[Any] | None) -> list[Any]:
    if visuals is None:
        return []
    return [one for some in visuals for one in (_flat(some) if isinstance(some, list | tuple) else [some])]


def _interleave(text: str, images: Sequence[str]) -> list[Part]:
    """Pictures at their places in the text."""
    if images and text.count(PLACE) == len(images):
        texts, order = text.split(PLACE), list(images)
    elif images and sorted({int(one) for one in _NUMBERED.findall(text)}) == list(range(1, len(images) + 1)):
        pieces = _NUMBERED.split(text)
        texts, order = pieces[::2], [images[int(number) - 1] for number in pieces[1::2]]
    else:
        return [*(Part(image=image) for image in images), *([Part(text=text)] if text else [])]
    parts = [Part(text=texts[0])] if texts[0] else []
    for image, after in zip(order, texts[1:], strict=True):
        parts += [Part(image=image), *([Part(text=after)] if after else [])]
    return parts
