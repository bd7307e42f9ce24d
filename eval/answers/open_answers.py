"""Open answers: MMMU's short answers, and the counts of MM-NIAH."""

import json
import re
from collections.abc import Sequence
from typing import Any

_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
_NUMBER_FORMS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,000
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 1.5
)


def parse_open_mmmu(response: str) -> list[str | float]:
    """All that may be the answer of an open question of MMMU: texts in lower case, numbers rounded to two places.

    What follows the last cue ("is ", "answer ", "so ", ...; "=" on the last line) of each line is kept, the shortest
    where several cues occur, or all of the response where none does; then every number in what was kept. A text of one
    sign is kept twice, with a blank before and after, so that it does not match inside a word. Each thing stands once,
    in order of appearance: the official code returns a set's order, which changes from run to run. An empty response
    gives [""], as there; it matches no answer.

    The official code lowers the text before it splits sentences at capitals, so only new lines part it.
    """
    whole = response.strip().strip(".").lower()
    lines = _SENTENCE_END.split(whole)
    kept: list[str] = []
    for number, line in enumerate(lines, start=1):
        cues = (*_CUES, "=") if number == len(lines) else _CUES
        tail = ""
        for cue in cues:
            if cue in line:
                found = line.rpartition(cue)[2].strip()
                if not tail or len(found) < len(tail):
                    tail = found
        if tail and tail not in _TRIVIAL:
            kept.append(tail)
    kept = kept or [whole]
    numbers = [found for text in kept for form in _NUMBER_FORMS for found in form.findall(text)]
    return list(dict.fromkeys(part for text in [*kept, *numbers] for part in _normalize(text)))


def match_open_mmmu(parsed: Sequence[str | float], answers: str | Sequence[str]) -> float:
    """1 if a right answer, normalised likewise, is part of a parsed text or equal to a parsed number (MMMU).

    Numbers are compared after rounding to two places; a right number never matches inside a text.
    """
    right = [part for answer in ([answers] if isinstance(answers, str) else answers) for part in _normalize(answer)]
    texts = [part for part in right if isinstance(part, str)]
    return float(any(_fits(one, right, texts) for one in parsed))


def _fits(parsed: str | float, right: Sequence[str | float], texts: Sequence[str]) -> bool:
    return any(text in parsed for text in texts) if isinstance(parsed, str) else parsed in right


def _normalize(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def parse_counts(response: str) -> list[Any] | None:
    """The list of counts in an answer to MM-NIAH's counting task (arXiv 2406.07230); None where it is no JSON list.

    Periods at the ends, "json" and fences go first, as in MM-NIAH's script; the lists in an object's values are joined.
    """
    text = response.strip(".").replace("json", "").replace("```", "").strip()
    try:
        counts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(counts, dict):
        if not all(isinstance(value, list) for value in counts.values()):
            return None
        counts = [count for value in counts.values() for count in value]
    return counts if isinstance(counts, list) else None
