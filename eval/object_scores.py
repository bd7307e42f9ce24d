"""CHAIR: objects that a caption names and the picture does not show (arXiv 1809.02156).

In: captions, and for each picture the objects that are there. Out: shares of hallucinated mentions and captions, with
recall and length, without which the first two mean little: a short caption hallucinates less.
The rules are those of the paper's code: singular words, double words read as one, 80 classes, objects from the labels
and from people's captions. The words of each class (eval/coco_objects.py) and the singular are our own, where the
paper's code needs Python 2, NLTK and pattern; so a figure may differ by some tenths from one of that code.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eval.coco_objects import COCO_OBJECTS, MEANT, OBJECT_OF_WORD, SINGULAR

_WORD = re.compile(r"[a-z0-9]+")
_LONGEST = max(len(word.split()) for word in OBJECT_OF_WORD)


@dataclass(frozen=True)
class ChairScores:
    """CHAIR over many captions."""

    chair_i: float  # hallucinated mentions / all mentions of one of the 80 classes
    chair_s: float  # captions with a hallucinated mention / captions
    recall: float  # classes that are there and were named / classes that are there
    length: float  # words in a caption, mean
    mentions: int  # of one of the 80 classes


@lru_cache(maxsize=16384)
def singular(word: str) -> str:
    """The singular of an English noun in lower case; words that are none pass through the same rules unharmed."""
    if word in SINGULAR:
        return SINGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")):
        return word[:-2]
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


@lru_cache(maxsize=65536)
def named_objects(caption: str) -> tuple[str, ...]:
    """The classes of COCO that a caption names, once for each mention, in order.

    The longest name counts: "hot dog" is no dog, "teddy bear" no bear; "baby elephant" is an elephant and no person;
    with a toilet, a seat is no chair.
    """
    words = [singular(word) for word in _WORD.findall(caption.lower().replace("'s ", " "))]
    read: list[str] = []
    i = 0
    while i < len(words):
        for size in range(min(_LONGEST, len(words) - i), 0, -1):
            joined = " ".join(words[i : i + size])
            if size == 1 or joined in OBJECT_OF_WORD or joined in MEANT:
                read.append(MEANT.get(joined, joined))
                i += size
                break
    if "toilet" in read:
        read = [word for word in read if word != "seat"]
    return tuple(OBJECT_OF_WORD[word] for word in read if word in OBJECT_OF_WORD)


def chair_scores(
    captions: Sequence[str],
    labels: Sequence[Collection[str]],
    references: Sequence[Sequence[str]] | None = None,
) -> ChairScores:
    """CHAIR of captions, one for each picture.

    Args:
        captions: what the model wrote.
        labels: the classes of the picture's segmentation, as COCO spells them.
        references: what people wrote about the picture; the classes they name are there, too. The paper uses both.

    Raises:
        ValueError: no captions, or a label that is none of the 80 classes.
    """
    if not captions:
        raise ValueError("CHAIR of no captions is not defined")
    unknown = sorted({label for some in labels for label in some} - set(COCO_OBJECTS))
    if unknown:
        raise ValueError(f"not among the 80 classes of COCO: {', '.join(map(repr, unknown))}")
    others: Sequence[Sequence[str]] = [()] * len(captions) if references is None else references
    mentions = wrong = with_wrong = there = found = words = 0
    for caption, label, texts in zip(captions, labels, others, strict=True):
        truth = set(label) | {name for text in texts for name in named_objects(text)}
        named = named_objects(caption)
        hallucinated = sum(name not in truth for name in named)
        mentions += len(named)
        wrong += hallucinated
        with_wrong += hallucinated > 0
        there += len(truth)
        found += len(truth & set(named))
        words += len(caption.split())
    return ChairScores(
        chair_i=wrong / mentions if mentions else 0.0,
        chair_s=with_wrong / len(captions),
        recall=found / there if there else 0.0,
        length=words / len(captions),
        mentions=mentions,
    )
