"""The demo's six benchmarks, on pictures that training never showed; data/assets makes them and says how.

`demo` on the command line means the first five; location is there for who asks for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from data.sample import Question
from eval.metrics import best_token_f1, exact_figures, yes_no_figures
from eval.outcome import from_answers
from eval.task import Mode, Task, own_group
from eval.tasks.shards import read_questions
from eval.truth import against_answers


def unseen_style() -> Task:
    """Which of four things of one subcategory is it? Known things, new style. Score: accuracy.

    Four questions share four choices, each right once, so that words alone earn a quarter.
    """
    return _choice("unseen-style", "question answering")


def held_out_category() -> Task:
    """To which category does a thing belong that training never showed, in a known and a new style? Score: accuracy."""
    return _choice("held-out-category", "reasoning")


def presence() -> Task:
    """Is this thing in the scene? Balanced yes/no as in POPE (arXiv 2305.10355). Score: accuracy; also F1, yes-rate."""
    return replace(_choice("presence", "description"), summary=from_answers(yes_no_figures))


def counting() -> Task:
    """How many of this thing are in the scene? Score: accuracy."""
    return _choice("counting", "question answering")


def location() -> Task:
    """Where in the scene is this thing? Score: accuracy."""
    return _choice("location", "location")


def caption() -> Task:
    """Describe clip art that training never showed. Score: word F1 against the title; also exact matches."""
    return Task(
        name="demo/caption",
        questions=_questions("caption", "generate"),
        metric=against_answers(best_token_f1),
        summary=from_answers(exact_figures),
        group_by=own_group,
        category="description",
    )


def _choice(name: str, category: str) -> Task:
    return Task(
        name=f"demo/{name}",
        questions=_questions(name, "choose"),
        mode="choose",
        group_by=own_group,
        category=category,
    )


def _questions(name: str, mode: Mode) -> Callable[[], Sequence[Question]]:
    def read() -> Sequence[Question]:
        from data.assets.expand import demo_folder  # expands the committed pieces on first use

        return read_questions(demo_folder() / "test" / name, mode)

    return read
