"""Prompts: files with slots, and how a question fills them.

In: `eval/prompts/NAME.txt` or `FAMILY/VARIANT.txt`, and a question's parts. Out: the parts as the model gets them.
The files are frozen: a test holds the hash of each, since a word more or less moves scores by points.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.sample import Part, Question
from eval.truth import LETTERS

FOLDER = Path(__file__).resolve().parent / "prompts"
SLOT = "{question}"
# `options` are lines "A. text", `options_in_brackets` lines "(A) text"; hint and context are the record's (`meta`).
OPTION_SLOTS = ("options", "options_in_brackets")
_OPTIONAL = re.compile(r"\{(" + "|".join((*OPTION_SLOTS, "hint", "context")) + r")\}")


@dataclass(frozen=True)
class PromptFile:
    """Which prompt was used, for the result."""

    variant: str | None  # None: the prompt was given in code, not by a file
    file: str | None
    sha256: str  # of the text


def read_prompt(name: str) -> str:
    """The text of `eval/prompts/NAME.txt`, without the line feed at its end.

    Raises:
        ValueError: there is no such file, or it does not hold the slot of the question exactly once.
    """
    path = FOLDER / f"{name}.txt"
    if not path.is_file():
        known = sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob("*.txt"))
        raise ValueError(f"no prompt {name!r} in {FOLDER}; there are: {', '.join(known)}")
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    check_prompt(text, f"prompt file {path}")
    return text


def check_prompt(text: str, where: str) -> None:
    """Refuse a prompt without one place for the question.

    Raises:
        ValueError: names `where`.
    """
    if text.count(SLOT) != 1:
        raise ValueError(f"{where}: the prompt must hold {SLOT} exactly once, got {text!r}")


def identify(text: str, files: Mapping[str, str]) -> PromptFile:
    """Which of a task's prompt files (variant -> name) has this text."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    for variant, name in files.items():
        if read_prompt(name) == text:
            return PromptFile(variant, f"{name}.txt", digest)
    return PromptFile(None, None, digest)


def shows_options(prompt: str) -> bool:
    """Whether the choices are part of the prompt."""
    return any(f"{{{name}}}" in prompt for name in OPTION_SLOTS)


def slots_of(question: Question) -> dict[str, str]:
    """What a question has to put into the slots besides its content; empty where it has nothing."""
    pairs = list(zip(LETTERS, question.choices, strict=False))
    return {
        "options": "\n".join(f"{letter}. {text}" for letter, text in pairs),
        "options_in_brackets": "\n".join(f"({letter}) {text}" for letter, text in pairs),
        "hint": str(question.meta.get("hint") or ""),
        "context": str(question.meta.get("context") or ""),
    }


def fill_prompt(prompt: str, content: tuple[Part, ...], slots: Mapping[str, str] | None = None) -> tuple[Part, ...]:
    """Put what precedes the question before its first text and what follows it after its last part; images stay in place.

    A line of the prompt whose slots have nothing to hold is left out, as "Context: {hint}" where there is no hint.
    Plain cutting, not `str.format`: questions and prompts may hold braces of their own.
    """
    before, _, after = _without_empty_lines(prompt, slots or {}).partition(SLOT)
    before, after = (_OPTIONAL.sub(lambda slot: (slots or {})[slot[1]], text) for text in (before, after))
    if not before and not after:
        return content
    parts = list(content)
    places = [i for i, part in enumerate(parts) if part.text is not None]
    if not places:
        return (*parts, Part(text=(before + after).strip("\n")))
    if before:
        parts[places[0]] = Part(text=f"{before}{parts[places[0]].text}")
    if after and parts[-1].text is not None:
        parts[-1] = Part(text=f"{parts[-1].text}{after}")
    elif after:
        parts.append(Part(text=after))
    return tuple(parts)


def _without_empty_lines(prompt: str, slots: Mapping[str, str]) -> str:
    """The prompt's own lines, but those that hold optional slots and nothing to put into any of them."""
    kept = []
    for line in prompt.split("\n"):
        named = _OPTIONAL.findall(line)
        if not named or SLOT in line or any(slots.get(name) for name in named):
            kept.append(line)
    return "\n".join(kept)
