"""The first line of an answer, and yes or no."""

import re
from typing import Literal

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_LONE_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
_MOST_PERIODS = 32  # as in the VQA code, from which the rule was taken over: a flag stands where the count belongs


def first_line(text: str) -> str | None:
    """The first line that holds anything, without blanks around it.

    Models that were not taught to stop go on with a question of their own on the next line.
    """
    return next((line.strip() for line in text.splitlines() if line.strip()), None)


def whole_response(text: str) -> str | None:
    """All of the response without blanks around it; None if there is nothing."""
    return text.strip() or None


def yes_no(text: str) -> str | None:
    """ "yes" or "no" if the first word of the first line is one of them, in any case, with punctuation around it."""
    line = first_line(text)
    if line is None:
        return None
    word = line.split()[0].strip(".,;:!?\"'()*").lower()
    return word if word in ("yes", "no") else None


def parse_yes_no(
    response: str, rule: Literal["pope", "mme", "mme-lmms-eval", "pope-lmms-eval", "vlmevalkit"] = "pope"
) -> str:
    """ "yes", "no" or "other", by one benchmark's own rule. Unlike `yes_no` none of these is a good one.

    Args:
        response: what the model wrote.
        rule: pope: the script of POPE (arXiv 2305.10355), also LLaVA's; no if one of "No", "no", "not" is a word (parted
            by single blanks, commas deleted) before the first period; everything else is yes, the empty answer too.
            mme: the script of MME (arXiv 2306.13394); lower case, then yes or no as a whole, or else "yes", or else
            "no", anywhere in the first four signs ("know" and "Not" are no; blanks first push the word out).
            mme-lmms-eval: likewise after stripping and deleting periods, and "y" and "n" count.
            pope-lmms-eval: "yes" or "no" and nothing else, in any case ("Yes." is other).
            vlmevalkit: exactly one of the words "yes" and "no" occurs, after the marks of the VQA code are taken out.
    """
    lower = response.lower()
    if rule == "pope":
        words = response.partition(".")[0].replace(",", "").split(" ")
        return "no" if {"No", "not", "no"} & set(words) else "yes"
    if rule == "mme":
        return _within(lower[:4])
    if rule == "mme-lmms-eval":
        bare = lower.strip().replace(".", "")
        return {"y": "yes", "n": "no"}.get(bare) or _within(bare[:4])
    if rule == "pope-lmms-eval":
        bare = lower.strip()
        return bare if bare in ("yes", "no") else "other"
    if rule == "vlmevalkit":
        words = _without_marks(lower).split()
        if ("yes" in words) == ("no" in words):
            return "other"
        return "yes" if "yes" in words else "no"
    known = "pope, mme, mme-lmms-eval, pope-lmms-eval, vlmevalkit"
    raise ValueError(f"unknown rule {rule!r} for yes and no; known: {known}")


def _within(beginning: str) -> str:
    return next((word for word in ("yes", "no") if word in beginning), "other")


def _without_marks(text: str) -> str:
    in_number = _DIGIT_COMMA_DIGIT.search(text) is not None
    kept = text
    for mark in _MARKS:
        kept = kept.replace(mark, "" if in_number or f"{mark} " in text or f" {mark}" in text else " ")
    return _LONE_PERIOD.sub("", kept, count=_MOST_PERIODS)
