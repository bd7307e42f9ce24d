"""Where is it: RefCOCO, RefCOCO+ and RefCOCOg. A box is right if its overlap with the true one (IoU) is at least 0.5.

What the numbers of an answer mean cannot be told from them, so it is an agreement: CONCEPTVLM_BOX_CONVENTION is one of `PROMPTS`
(default 0-1000), the prompt says it, and the result names it. The first box of the answer counts; an answer without one is unparsed.
Edges have no width (the notebook of REFER adds a pixel). Chance and majority are what the whole picture gets.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

from eval.answers import CONVENTIONS, parse_boxes
from eval.metrics import box_iou
from eval.outcome import Outcome
from eval.subject_scores import refcoco_scores
from eval.task import Task, own_group
from eval.tasks.shards import Benchmark
from eval.truth import Truth

CONVENTION = "CONCEPTVLM_BOX_CONVENTION"
PROMPTS = {"0-1000": "box/thousandths", "0-999": "box/thousandths", "0-1": "box/shares", "square": "llava/box"}
Relative = Literal["0-1000", "0-999", "0-1", "square"]
THRESHOLD = 0.5
SPLITS = (
    *(f"refcoco/{split}" for split in ("val", "testA", "testB")),
    *(f"refcoco-plus/{split}" for split in ("val", "testA", "testB")),
    *(f"refcocog/{split}" for split in ("val", "test")),
)


def refcoco(name: str, convention: Relative | None = None) -> Task:
    """RefCOCO, RefCOCO+ (arXiv 1608.00272; split unc), RefCOCOg (1511.02283; split umd). Score: share of expressions found.

    Args:
        name: one of `SPLITS`.
        convention: what the numbers mean; if not given, what CONCEPTVLM_BOX_CONVENTION says.
    """
    agreed = convention_agreed() if convention is None else convention

    def read(text: str, truth: Truth) -> str | None:
        boxes = parse_boxes(text, agreed, image_size=truth.sizes[0])
        return None if boxes is None else json.dumps(boxes[0])

    read.__name__ = f"first box, {agreed}"
    return Task(
        name=name,
        questions=Benchmark(name),
        prompts={"llava" if agreed == "square" else agreed: PROMPTS[agreed]},
        extract=read,
        metric=overlap_is_enough,
        guesses=_whole_picture,
        summary=partial(_figures, agreed),
        group_by=own_group,
        max_new_tokens=64,
        category="location",
    )


def refcoco_tasks() -> dict[str, Callable[[], Task]]:
    """The splits by name."""
    return {name: partial(refcoco, name) for name in SPLITS}


def convention_agreed() -> Relative:
    """By the environment variable CONCEPTVLM_BOX_CONVENTION, or 0-1000.

    Raises:
        ValueError: it is no convention in which a prompt can ask without knowing the size at which a model sees a picture.
    """
    name = os.environ.get(CONVENTION) or "0-1000"
    if name not in PROMPTS:
        told = "; ".join(f"{one}: {CONVENTIONS[cast(Relative, one)]}" for one in PROMPTS)
        raise ValueError(f"{CONVENTION} is {name!r}; it must be one of these. {told}")
    return cast(Relative, name)


def overlap_is_enough(answer: str, truth: Truth) -> float:
    """1 if the box, as JSON in pixels, overlaps the right one by at least half."""
    return float(truth.box is not None and box_iou(json.loads(answer), truth.box) >= THRESHOLD)


def _whole_picture(truth: Truth) -> tuple[str, ...]:
    return (json.dumps([0, 0, *truth.sizes[0]]),)


def _figures(agreed: Relative, found: Sequence[Outcome]) -> dict[str, Any]:
    boxes = [None if one.answer is None else json.loads(one.answer) for one in found]
    figures = refcoco_scores(boxes, [one.truth.box or () for one in found])
    return {"box_convention": f"{agreed}: {CONVENTIONS[agreed]}", "iou_threshold": THRESHOLD} | figures
