"""What will be asked: every question of a task checked, named by content, and chosen or not for the blind run.

In: a Task and a model's fingerprint. Out: a `Plan`, small enough to keep (no pictures), from which answering and
scoring both start. All faults of the questions are found here, before the model sees its first batch.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from data.sample import Question
from eval.prompt import PromptFile, identify
from eval.task import RULES, Task, fault
from eval.truth import Truth, truth_of

BLIND_SEED = "blind-1"


@dataclass(frozen=True)
class Asked:
    """What scoring needs of one question, and the keys under which its answers are kept."""

    place: int  # in task.questions()
    truth: Truth
    key: str  # names prompt, pictures, choices, limits and model: an answer is reused only if all are the same
    blind_key: str | None  # likewise without pictures; None where the blind run does not ask it
    group: str | None  # by the task's own rule

    @property
    def id(self) -> str:
        """Of the question."""
        return self.truth.id

    @property
    def draw(self) -> str:
        """What is one independent draw: the group, or the question alone."""
        return f"id {self.id}" if self.group is None else f"group {self.group}"


@dataclass(frozen=True)
class Plan:
    task: Task
    questions: Sequence[Question]
    asked: tuple[Asked, ...]
    fingerprint: str
    prompt_hash: str
    questions_hash: str  # of everything in the questions, right answers included
    skipped: tuple[str, ...]  # records that could not be used: which, and why

    def prompts(self) -> dict[str, PromptFile]:
        """Which prompt files were used."""
        task = self.task
        found = {"prompt": identify(task.prompt, task.prompts)}
        return found | ({"open_prompt": identify(task.open_prompt, task.open_prompts)} if task.open_prompt else {})


def make_plan(task: Task, fingerprint: str, blind_limit: int | None) -> Plan:
    """Read every question once and name its answers.

    Raises:
        ValueError: no questions, two with one id, or one that its task cannot score; named, before any is asked.
    """
    if blind_limit is not None and blind_limit < 0:
        raise ValueError(f"blind_limit is {blind_limit}; give a number of questions, 0 for none, or None for all")
    questions = task.questions()
    asked: list[Asked] = []
    everything = hashlib.sha256()
    seen: dict[str, str] = {}
    for place in range(len(questions)):
        question = questions[place]
        _check(task, question, seen)
        prompted = task.ask(question)
        blind = any(part.image is not None for part in question.content)
        asked.append(
            Asked(
                place=place,
                truth=truth_of(question),
                key=answer_key(task, prompted, fingerprint),
                blind_key=answer_key(task, prompted.without_images(), fingerprint) if blind else None,
                group=task.group_by(question) if task.group_by else None,
            )
        )
        truth: list[object] = [question.choices, question.answer, question.answers, question.category, asked[-1].group]
        truth += [question.group, question.box, question.meta] if question.box or question.meta else []
        everything.update(_digest([question.id, _content(question), truth]).encode())
    if not asked:
        raise ValueError(f"task {task.name} has no questions")
    return Plan(
        task=task,
        questions=questions,
        asked=tuple(_choose_blind(asked, blind_limit)),
        fingerprint=fingerprint,
        prompt_hash=prompt_hash(task),
        questions_hash=everything.hexdigest()[:32],
        skipped=tuple(getattr(questions, "skipped", ())),
    )


def _check(task: Task, question: Question, seen: dict[str, str]) -> None:
    if question.id in seen:
        raise ValueError(
            f"task {task.name}: id {question.id!r} is used by records {seen[question.id]} and {question.key}; "
            "answers are kept by id, so give each question its own"
        )
    seen[question.id] = question.key
    reason = fault(question, task.mode)
    if reason is not None:
        raise ValueError(f"task {task.name}: question {question.id!r} (record {question.key}): {reason}")


def _choose_blind(asked: Sequence[Asked], limit: int | None) -> Iterator[Asked]:
    """Keep the blind keys of `limit` questions at most: independent of their order, nested in `limit`.

    Whole groups are drawn, by a hash of their name: in a balanced group (a yes and a no about the same thing, four
    questions that share four choices) words alone are right a fixed number of times, in half of one they are not.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for question in asked:
        if question.blind_key is not None:
            groups[question.draw].append(question.id)
    kept: set[str] = set()
    for name in sorted(groups, key=lambda name: hashlib.sha256(f"{BLIND_SEED}|{name}".encode()).digest()):
        if limit is not None and kept and len(kept) + len(groups[name]) > limit:
            break
        kept.update(groups[name] if limit is None else groups[name][:limit])
    for question in asked:
        yield question if question.id in kept else replace(question, blind_key=None)


def prompt_hash(task: Task) -> str:
    """Changes with how questions are asked: prompt, mode, rule, length of the answer."""
    how: list[object] = [task.mode, task.prompt, task.max_new_tokens if task.mode == "generate" else None]
    if task.open_prompt:
        how.append(task.open_prompt)
    if task.mode == "choose" and task.rule != "sum":
        how.append(RULES[task.rule])
    return _digest(how)


def answer_key(task: Task, prompted: Question, fingerprint: str) -> str:
    """The key under which the answer to a question is kept; `prompted` has its prompt around it."""
    how: list[object] = ["generate", task.max_new_tokens]
    if task.mode == "choose":
        how = ["choose", prompted.choices] if task.rule == "sum" else ["choose", prompted.choices, task.rule]
    return _digest([prompted.id, _content(prompted), how, fingerprint])


def _content(question: Question) -> list[list[str | None]]:
    """The parts in order, a picture by the hash of its bytes, not by its name."""
    return [
        [part.text, None if part.image is None else hashlib.sha256(question.images[part.image]).hexdigest()]
        for part in question.content
    ]


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
