"""What a benchmark is, and what a model must offer to take it.

In: questions (data/sample.py). Out: a `Task`, that eval/run.py puts to an `Answerer` and scores.
A benchmark is a function that returns a Task; eval/tasks/__init__.py lists them by name.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from data.sample import Part, Question
from eval.answers import first_line
from eval.metrics import exact_match

Mode = Literal["generate", "choose"]
SLOT = "{question}"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


@runtime_checkable
class Answerer(Protocol):
    """A model under test. Order and number of the answers are those of the questions."""

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        """One answer for each question, greedy."""
        ...

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """Sum of the log-probabilities of each candidate's tokens and of the end token, given its question."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the answers could: weights, tokenizer, picture preparation, precision."""
        ...


def own_group(question: Question) -> str | None:
    """The `group` of the record: questions that share it are one draw for the interval."""
    return question.group


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark. Everything that decides a score is here, in the questions, or in the answerer's fingerprint."""

    name: str  # also its folder: letters, digits, ". _ -" and "/"
    questions: Callable[[], Sequence[Question]]  # called when needed, so that a task is cheap to look up
    mode: Mode = "generate"
    prompt: str = SLOT  # what stands before and after the question's own text
    extract: Callable[[str], str | None] = first_line  # generate: raw answer -> answer, None where it cannot be read
    metric: Callable[[str, Sequence[str]], float] = exact_match  # (answer, right answers) -> score in [0, 1]
    summary: Callable[[Sequence[str | None], Sequence[str]], dict[str, float]] | None = None  # further figures
    group_by: Callable[[Question], str | None] | None = None  # draws that are not independent, for the interval
    max_new_tokens: int = 16
    category: str | None = None  # family of the benchmark, for reports

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"task name {self.name!r} is also a folder: use letters, digits, '.', '_', '-' and '/'")
        if self.mode not in ("generate", "choose"):
            raise ValueError(f"task {self.name}: mode is {self.mode!r}; it must be 'generate' or 'choose'")
        if self.prompt.count(SLOT) != 1:
            raise ValueError(f"task {self.name}: the prompt must hold {SLOT} exactly once, got {self.prompt!r}")
        if self.max_new_tokens < 1:
            raise ValueError(f"task {self.name}: max_new_tokens must be at least 1, got {self.max_new_tokens}")

    def ask(self, question: Question) -> Question:
        """The question as the model gets it: with the prompt around its text."""
        return replace(question, content=fill_prompt(self.prompt, question.content))


def fill_prompt(prompt: str, content: tuple[Part, ...]) -> tuple[Part, ...]:
    """Put what precedes the slot before the first text part and what follows it after the last; images stay in place.

    Plain cutting, not `str.format`: questions and prompts may hold braces of their own.
    """
    before, _, after = prompt.partition(SLOT)
    if not before and not after:
        return content
    parts = list(content)
    places = [i for i, part in enumerate(parts) if part.text is not None]
    if not places:
        return (*parts, Part(text=before + after))
    parts[places[0]] = Part(text=f"{before}{parts[places[0]].text}")
    parts[places[-1]] = Part(text=f"{parts[places[-1]].text}{after}")
    return tuple(parts)


def right_answers(question: Question) -> tuple[str, ...]:
    """What counts as right: the chosen choice, or else any of the answers."""
    if question.choices and question.answer is not None:
        return (question.choices[question.answer],)
    return question.answers


def fault(question: Question, mode: Mode) -> str | None:
    """Why this question cannot be put and scored in this mode, or None if it can."""
    choices, answer = question.choices, question.answer
    if choices and answer is not None and not 0 <= answer < len(choices):
        return f"answer is {answer}, but there are {len(choices)} choices (count from 0)"
    if mode == "choose":
        if len(choices) < 2:
            return f"mode choose needs at least 2 choices, the record has {len(choices)}"
        if len(set(choices)) < len(choices):
            return f"choices repeat: {', '.join(map(repr, choices))}"
        if answer is None:
            return "mode choose needs `answer`, the place of the right choice"
    elif not right_answers(question):
        return "mode generate needs `answers`, or `choices` with `answer`"
    return None


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        ValueError: there is none, or the name is that of a group (`find_tasks` takes those).
    """
    from eval.tasks import GROUPS, TASKS  # the tasks are made of what this file defines

    if name in TASKS:
        return TASKS[name]()
    if name in GROUPS:
        raise ValueError(f"{name!r} is a group of tasks; name one of: {', '.join(GROUPS[name])}")
    known = sorted([*TASKS, *GROUPS])
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    guess = f"; did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(f"unknown task {name!r}{guess} Known tasks and groups: {', '.join(known)}")


def find_tasks(names: str | Sequence[str]) -> list[Task]:
    """The tasks of these names, groups expanded, each task once; a string may hold several names, with commas."""
    from eval.tasks import GROUPS

    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    single = [member for name in wanted if name for member in GROUPS.get(name, (name,))]
    if not single:
        raise ValueError("no task named; for example: demo, or demo/presence,demo/counting")
    return [find_task(name) for name in dict.fromkeys(single)]
