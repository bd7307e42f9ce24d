"""What a benchmark is, and what a model must offer to take it.

In: questions (data/sample.py). Out: a `Task`, that eval/run.py puts to an `Answerer` and scores.
A benchmark is a function that returns a Task; eval/tasks/__init__.py lists them by name.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from data.sample import Question
from eval.answers import first_line
from eval.headline import Headline
from eval.metrics import exact_match
from eval.outcome import Outcome
from eval.prompt import SLOT, check_prompt, fill_prompt, read_prompt, shows_options, slots_of
from eval.truth import LETTERS, Extract, Metric, Truth, against_answers, from_text

Mode = Literal["generate", "choose", "rate"]  # rate: the likelihood of the answer itself
Rule = Literal["sum", "per-token", "letter"]
RULES: dict[Rule, str] = {
    "sum": "sum of log-probabilities incl. end token",
    "per-token": "log-probability per token incl. end token",
    "letter": "sum of log-probabilities of the letter incl. end token",
}
FIRST_LINE, EXACT_MATCH = from_text(first_line), against_answers(exact_match)
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._@-]*(/[A-Za-z0-9_-][A-Za-z0-9._@-]*)*")


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    truncated: bool = False  # it reached max_new_tokens without an end
    tokens: int | None = None  # of the answer, its end included; None: not told


@runtime_checkable
class Answerer(Protocol):
    """A model under test. Order and number of the answers are those of the questions."""

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> Sequence[Answer]:
        """One answer for each question, greedy. Plain texts are taken too: of them it is not known which were cut off."""
        ...

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """Sum of the log-probabilities of each candidate's tokens and of the end token, given its question.

        A question without content is none: the candidate is a document of its own (mode rate).
        """
        ...

    def fingerprint(self) -> str:
        """Changes whenever the answers could: weights, tokenizer, picture preparation, precision."""
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """An Answerer that can rank by the rule per-token."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as an answer, the end token included."""
        ...


def own_group(question: Question) -> str | None:
    """The `group` of the record: questions that share it are one draw for the interval."""
    return question.group


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark. Everything that decides a score is here, in the questions, or in the answerer's fingerprint."""

    name: str  # also its folder: letters, digits, ". _ - @" and "/"
    questions: Callable[[], Sequence[Question]]  # called when needed, so that a task is cheap to look up
    mode: Mode = "generate"
    rule: Rule = "sum"  # choose: by what the choices are ranked
    prompts: Mapping[str, str] = field(
        default_factory=dict
    )  # variant -> prompt file (eval/prompt.py); the first is used
    open_prompts: Mapping[str, str] = field(
        default_factory=dict
    )  # likewise for questions without choices, where they differ
    prompt: str = ""  # what stands around the question's own text; if not given, the first of `prompts`
    open_prompt: str = ""
    extract: Extract = FIRST_LINE  # generate: raw answer -> answer, None where it cannot be read
    metric: Metric = EXACT_MATCH  # answer -> score in [0, 1]
    summary: Callable[[Sequence[Outcome]], Mapping[str, Any]] | None = None  # further figures
    headline: Headline | None = None  # the score, where it is not the mean over questions
    guesses: Callable[[Truth], Sequence[str]] | None = (
        None  # generate: what a guesser draws from; None: others' answers
    )
    group_by: Callable[[Question], str | None] | None = None  # draws that are not independent, for the interval
    max_new_tokens: int = 16
    category: str | None = None  # family of the benchmark, for reports
    source: str | None = None  # where shards of the user's lie, for a report that shows questions

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"task name {self.name!r} is also a folder: use letters, digits, '.', '_', '-', '@' and '/'"
            )
        if self.mode not in get_args(Mode):
            raise ValueError(f"task {self.name}: mode is {self.mode!r}; it must be 'generate', 'choose' or 'rate'")
        if self.rule not in get_args(Rule):
            raise ValueError(f"task {self.name}: rule is {self.rule!r}; it must be one of {', '.join(get_args(Rule))}")
        if self.max_new_tokens < 1:
            raise ValueError(f"task {self.name}: max_new_tokens must be at least 1, got {self.max_new_tokens}")
        for name, files in (("prompt", self.prompts), ("open_prompt", self.open_prompts)):
            if not getattr(self, name) and files:
                object.__setattr__(self, name, read_prompt(next(iter(files.values()))))
        if not self.prompt:
            object.__setattr__(self, "prompt", SLOT)
        for text in filter(None, (self.prompt, self.open_prompt)):
            check_prompt(text, f"task {self.name}")
        if self.mode == "choose" and self.rule == "letter" and not shows_options(self.prompt):
            raise ValueError(
                f"task {self.name}: rule letter ranks A, B, .., so the prompt must show the options "
                f"({{options}}), got {self.prompt!r}"
            )

    def ask(self, question: Question) -> Question:
        """The question as the model gets it: with the prompt around its text."""
        prompt = self.open_prompt if self.open_prompt and not question.choices else self.prompt
        return replace(question, content=fill_prompt(prompt, question.content, slots_of(question)))

    def candidates(self, truth: Truth) -> tuple[str, ...]:
        """Choose: what is ranked, in the order of the choices. Rate: the answer."""
        if self.mode == "rate":
            return truth.targets[:1]
        return tuple(LETTERS[: len(truth.choices)]) if self.rule == "letter" else truth.choices


def with_prompt(task: Task, variant: str) -> Task:
    """The task with another of its prompts.

    Raises:
        ValueError: it has no such variant.
    """
    if variant not in task.prompts:
        known = ", ".join(task.prompts) or "none, it has one prompt only"
        raise ValueError(f"task {task.name} has no prompt {variant!r}; its variants: {known}")
    opened = read_prompt(task.open_prompts[variant]) if variant in task.open_prompts else task.open_prompt
    return replace(task, prompt=read_prompt(task.prompts[variant]), open_prompt=opened)


def with_rule(task: Task, rule: Rule) -> Task:
    """The task as a choice by likelihood. Rules that rank texts take the prompt without options, where there is one.

    Its questions must have choices; eval/plan.py says so of the first that has none.
    """
    plain = rule != "letter" and "question" in task.prompts
    return replace(with_prompt(task, "question") if plain else task, mode="choose", rule=rule)


def right_answers(question: Question) -> tuple[str, ...]:
    """What counts as right: the chosen choice, or else any of the answers."""
    if question.choices and question.answer is not None:
        return (question.choices[question.answer],)
    return question.answers


def fault(question: Question, mode: Mode) -> str | None:
    """Why this question cannot be put and scored in this mode, or None if it can."""
    if len(question.choices) > len(LETTERS):
        return f"{len(question.choices)} choices; there are letters for {len(LETTERS)}"
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
    elif not right_answers(question) and question.box is None:
        return f"mode {mode} needs `answers`, `choices` with `answer`, or `box`"
    return None


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        ValueError: there is none, or the name is that of a group (`find_tasks` takes those).
    """
    from eval.tasks import GROUPS, TASKS  # the tasks are made of what this file defines
    from eval.tasks.long_context import at_length

    if name in TASKS:
        return TASKS[name]()
    if (task := at_length(name)) is not None:
        return task
    if name in GROUPS:
        raise ValueError(f"{name!r} is a group of tasks; name one of: {', '.join(GROUPS[name])}")
    known = sorted([*TASKS, *GROUPS])
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    guess = f"; did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(f"unknown task {name!r}{guess} Known tasks and groups: {', '.join(known)}")


def find_tasks(names: str | Sequence[str]) -> list[Task]:
    """The tasks of these names, groups expanded, each task once; a string may hold several names, with commas."""
    from eval.tasks import GROUPS
    from eval.tasks.long_context import named

    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    single = [member for name in wanted if name for member in GROUPS.get(name) or named(name) or (name,)]
    if not single:
        raise ValueError("no task named; for example: demo, or demo/presence,demo/counting")
    return [find_task(name) for name in dict.fromkeys(single)]
