"""The letter of the chosen option, as each benchmark's own code reads it. `choices` maps letters to texts, in order."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_BLANK_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_FROM_THE_END = 5  # a lone letter must be among the last five words
_SCIENCEQA_LETTERS = "ABCDE"


def parse_choice_mmmu(
    response: str, choices: Mapping[str, str], variant: Literal["official", "lmms-eval", "pro"] = "official"
) -> str | None:
    """MMMU's reader of multiple-choice answers (arXiv 2311.16502); None where it would draw a letter at random.

    Marks are stripped from both ends, each kind once and in a fixed order, and a blank is put there. Then the first
    kind of hint that is found counts: "(A)"; " A "; in answers of more than five words, the text of an option, in any
    case. Of several options the one whose hint stands last is taken.

    Args:
        response: what the model wrote.
        choices: letter -> text of the option.
        variant: official: as above. lmms-eval 0.7.3: the blank before a letter is not asked for ("USA " holds A), and
            "A." counts after it. pro: MMMU-Pro's script (arXiv 2409.02813); as lmms-eval, but first what follows the
            last "Answer:", if exactly one option's letter occurs in it.
    """
    if variant not in ("official", "lmms-eval", "pro"):
        raise ValueError(f"unknown variant {variant!r} of MMMU's reader; known: official, lmms-eval, pro")
    if variant == "pro" and "Answer:" in response:
        tail = response.rpartition("Answer:")[2].strip()
        named = [letter for letter in choices if letter in tail]
        if len(named) == 1:
            return named[0]
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "

    found = [letter for letter in choices if f"({letter})" in response]
    if found:
        return _last(found, [response.rfind(f"({letter})") for letter in found])
    for form in (" {} ",) if variant == "official" else ("{} ", "{}."):
        found = [letter for letter in choices if form.format(letter) in response]
        if found:
            # The variants too look for " A " here: without any, the first option in order wins.
            return _last(found, [response.rfind(f" {letter} ") for letter in found])
    if len(response.split()) > 5:
        lower = response.lower()
        found = [letter for letter, text in choices.items() if text.lower() in lower]
        if found:
            return _last(found, [lower.rfind(choices[letter].lower()) for letter in found])
    return None


def _last(letters: Sequence[str], places: Sequence[int]) -> str:
    return letters[places.index(max(places))]


def infer_choice(response: str, choices: Mapping[str, Any]) -> str | None:
    """VLMEvalKit's reader without its language model, used for MMBench, MMStar and most of its choice questions.

    A letter counts if it is the only option's letter among the words (marks become blanks; case counts) and one of the
    last five words. Otherwise the text of an option counts, in any case, if no other option's text is contained too
    and the answer is at most twice as long as all options together. A refusal, or the letter Z alone, is None, as is
    all for which the kit would ask a language model or draw an option. (Release 0.0.20; "A rabbit is shown" is A.)

    Args:
        response: what the model wrote.
        choices: letter -> option; options that are no strings are compared as Python prints them.
    """
    if "Failed to obtain answer via API" not in response:
        if any(refusal in response for refusal in _REFUSALS):
            return None
        words = response.translate(_BLANK_MARKS).split()
        found = [letter for letter in choices if letter in words]
        if len(found) == 1:
            if words.index(found[0]) > len(words) - _FROM_THE_END:
                return found[0]
        elif not found and "Z" in words:
            return None
    lower = response.lower()
    if len(lower) > 2 * sum(len(str(option)) for option in choices.values()):
        return None
    named = [letter for letter, option in choices.items() if str(option).lower() in lower]
    return named[0] if len(named) == 1 else None


def parse_scienceqa(response: str, num_choices: int) -> str | None:
    """LLaVA's reader for ScienceQA: the letter alone, or "A. " first, or exactly one "The answer is A" with a sign after.

    The sign may be any but a new line, as in LLaVA's script; without one ("The answer is A" at the end) nothing is
    read. Letters beyond the options, or beyond E, are none.
    """
    if len(response) == 1 and response in _SCIENCEQA_LETTERS:
        letter = response
    elif response[:1] in tuple(_SCIENCEQA_LETTERS) and response[1:3] == ". ":
        letter = response[0]
    else:
        stated = re.findall(r"The answer is ([A-Z]).", response)
        letter = stated[0] if len(stated) == 1 else ""
    return letter if letter and letter in _SCIENCEQA_LETTERS[:num_choices] else None


def parse_leading_letter(response: str, choices: Mapping[str, Any]) -> str | None:
    """The letter alone, or before a period at the start, blanks around it aside ("B", "B.", " B. text"): AI2D's rule.

    As lmms-eval reads AI2D: what is neither is compared as it stands, which no letter equals; here it is None.
    """
    if response in choices:
        return response
    stated = re.match(r"\s*([A-Z])\.", response)
    return stated[1] if stated is not None and stated[1] in choices else None


def parse_first_letter(response: str, choices: Mapping[str, Any]) -> str | None:
    """The first sign of the answer, in upper case, if it is an option's letter: the rule for SEED-Bench and MMStar.

    "The answer is B" is T, hence None. As lmms-eval and the first scripts for SEED-Bench read it.
    """
    letter = response.strip()[:1].upper()
    return letter if letter in choices else None
