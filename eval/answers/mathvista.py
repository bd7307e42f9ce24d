"""MathVista (arXiv 2310.02255): from an answer to the short form that is compared with the right one."""

import re
from collections.abc import Sequence
from typing import Any

from eval.metrics.edit_distance import edit_distance

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d+)?")


def normalize_mathvista(
    extraction: Any,
    choices: Sequence[str] | None,
    question_type: str,
    answer_type: str,
    precision: float | int | None = None,
    ignore_empty: bool = False,
) -> Any:
    """The extracted answer in the form of the right one, by MathVista's own code; None where that is not possible.

    multi_choice: a letter, or the first "(X)", names an option; anything else becomes the option that is nearest by
    edit distance, so nothing is ever unread there, the empty answer included. integer: `int(float(...))`, which cuts.
    float: rounded to `precision` places. list: as Python prints it. Other answer types stay as they are.

    Args:
        extraction: as extracted; numbers and lists are taken too.
        choices: the options' texts, for multi_choice.
        question_type: "multi_choice" or "free_form".
        answer_type: "text", "integer", "float" or "list".
        precision: decimal places, for float. (Earlier official code, which lmms-eval keeps, fails on 1.0 for 1.)
        ignore_empty: multi_choice: an empty extraction is None; an option of the official script, off by default.

    Raises:
        ValueError: multi_choice without choices.
    """
    if question_type == "multi_choice":
        return _option(extraction, choices, ignore_empty)
    if answer_type == "integer":
        try:
            return str(int(float(extraction)))
        except (TypeError, ValueError, OverflowError):
            return None
    if answer_type == "float":
        try:
            return str(round(float(extraction), int(precision)))  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            return None
    return str(extraction) if answer_type == "list" else extraction


def _option(extraction: Any, choices: Sequence[str] | None, ignore_empty: bool) -> str | None:
    if not choices:
        raise ValueError("a multi_choice question of MathVista needs its choices, got none")
    text = extraction.strip() if isinstance(extraction, str) else str(extraction)
    if ignore_empty and not text:
        return None
    letter = re.search(r"\(([a-zA-Z])\)", text)
    if letter is not None:
        text = letter[1].upper()
    if len(text) == 1 and 0 <= ord(text) - ord("A") < len(choices):
        return choices[ord(text) - ord("A")]
    return min(choices, key=lambda choice: edit_distance(text, choice))


def extract_mathvista(response: str, choices: Sequence[str] | None, question_type: str, answer_type: str) -> str | None:
    """The answer within a response, by rules alone; None where the official script would ask a language model.

    First the official short cuts: the response is an option, an integer or a float; or it says `The answer is "..."`.
    Then ours, since the model is not asked: "(B)" or "answer is B" for options, the last option's text that is named
    alone, the last number, the last list in brackets. Report the share that could be read beside the score.
    """
    if not response.strip():
        return None
    if question_type == "multi_choice" and choices and response in choices:
        return response
    for kind, read in (("integer", int), ("float", float)):
        if answer_type == kind:
            try:
                return str(read(response))
            except ValueError:
                pass
    quoted = _quoted(response)
    if quoted is not None:
        return quoted
    if question_type == "multi_choice":
        return _named_option(response, choices or ())
    if answer_type in ("integer", "float"):
        numbers = [match[0] for match in _NUMBER.finditer(response) if any(sign.isdigit() for sign in match[0])]
        return numbers[-1].replace(",", "") if numbers else None
    if answer_type == "list":
        lists: list[str] = re.findall(r"\[[^\[\]]*\]", response)
        return lists[-1] if lists else None
    stated = re.findall(r"answer is:?\s*(.+?)\.?\s*$", response, flags=re.IGNORECASE)
    return stated[-1] if stated else response.strip()


def _quoted(response: str) -> str | None:
    # In place of the official pattern, The answer is "(.*)"\., which takes ten seconds for some answers of 75 kB.
    before = 'The answer is "'
    for line in response.split("\n"):
        start, end = line.find(before), line.rfind('".')
        if start >= 0 and end >= start + len(before):
            return line[start + len(before) : end]
    return None


def _named_option(response: str, choices: Sequence[str]) -> str | None:
    letters = "".join(chr(ord("A") + i) for i in range(len(choices)))
    if not letters:
        return None
    stated: list[str] = re.findall(rf"\(([{letters}])\)", response)
    stated = stated or re.findall(rf"(?i:answer is|answer:|option)\s*\**([{letters}])\b", response)
    if stated:
        return stated[-1]
    if re.fullmatch(rf"\W*[{letters}]\W*", response):
        return response.strip(" \t\n.,:;!?*()[]\"'")
    named = [choice for choice in choices if choice.lower() in response.lower()]
    return named[0] if len(named) == 1 else None
