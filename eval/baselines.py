"""What a score is worth: the scores of guessing, and of one constant answer, from the right answers alone."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.outcome import Outcome
from eval.plan import Asked
from eval.task import Task
from eval.truth import Truth

SEED = 20260117
DRAWS = 50  # answers of other questions drawn for each question, fewer for more than 6,000 questions
GUESSES = 100_000  # bounds the draws of all questions, where the score is not their mean
METRIC_CALLS = 300_000  # bounds the draws, and the search for the best constant answer: about 2 s of word F1


@dataclass(frozen=True)
class Guess:
    """An answer that no model gave."""

    answer: str | None
    score: float


def chance(asked: Sequence[Asked], task: Task) -> float:
    """The expected score without knowledge.

    Choose: a choice drawn at random. Generate: one of the task's guesses, or else the right answer of another question,
    drawn at random (fixed seed, 50 draws for each question, 300,000 in all); 0 where there is no other question. Where
    the score is not the mean over questions: its mean over up to 50 such draws of all.
    """
    rng = random.Random(SEED)
    if task.headline is None:
        return sum(_expected(place, asked, task, rng) for place in range(len(asked))) / len(asked)
    open_to = [_choices_of_guesser(one.truth, asked, task, rng) for one in asked]
    worlds = max(10, min(DRAWS, GUESSES // len(asked)))
    return sum(_figure(asked, task, [rng.choice(guesses) for guesses in open_to]) for _ in range(worlds)) / worlds


def majority(asked: Sequence[Asked], task: Task) -> float:
    """The score of the best constant answer.

    Choose, with the same choices for all: the most frequent right answer. Choose, with choices that differ: the most
    frequent place of the right answer, since no answer is open to all. Generate: the guess, or the right answer, that
    scores best when given to every question (the most frequent ones are tried where there are too many to try all).
    """
    answers: list[Callable[[Truth], Guess]] = []
    if task.mode == "choose":
        if len({frozenset(question.truth.choices) for question in asked}) == 1:
            answers = [_choosing(text) for text in asked[0].truth.choices]
        else:
            answers = [_placing(place) for place in range(max(len(question.truth.choices) for question in asked))]
    else:
        frequent = Counter(text for question in asked for text in dict.fromkeys(_open_to(question.truth, task)))
        most = frequent.most_common(max(1, METRIC_CALLS // len(asked)))
        answers = [_saying(text, task) for text, _ in most]
    found = ([answer(question.truth) for question in asked] for answer in answers)
    return max((_figure(asked, task, guesses) for guesses in found), default=0.0)


def _figure(asked: Sequence[Asked], task: Task, guesses: Sequence[Guess]) -> float:
    if task.headline is None:
        return sum(guess.score for guess in guesses) / len(guesses)
    return task.headline.value(
        [
            Outcome(one.truth, one.place, guess.answer or "", guess.answer, guess.score, one.draw)
            for one, guess in zip(asked, guesses, strict=True)
        ]
    )


def _expected(place: int, asked: Sequence[Asked], task: Task, rng: random.Random) -> float:
    truth = asked[place].truth
    if task.mode == "choose":
        return 1 / len(truth.choices)
    if guesses := _guesses(truth, task):
        return sum(task.metric(guess, truth) for guess in guesses) / len(guesses)
    if len(asked) == 1:
        return 0.0
    draws = max(1, min(DRAWS, METRIC_CALLS // len(asked)))
    others = [other + (other >= place) for other in rng.choices(range(len(asked) - 1), k=draws)]
    said = [asked[other].truth.targets for other in others]
    return sum(task.metric(targets[0], truth) for targets in said if targets) / draws


def _choices_of_guesser(truth: Truth, asked: Sequence[Asked], task: Task, rng: random.Random) -> list[Guess]:
    """Among what somebody draws who knows nothing, with the score of each."""
    if task.mode == "choose":
        return [_placing(place)(truth) for place in range(len(truth.choices))]
    texts: Sequence[str] = _guesses(truth, task)
    if not texts:
        others = rng.choices(asked, k=max(1, min(DRAWS, METRIC_CALLS // len(asked))))
        texts = [other.truth.targets[0] for other in others if other.truth.targets]
    return [_saying(text, task)(truth) for text in texts] or [Guess(None, 0.0)]


def _guesses(truth: Truth, task: Task) -> Sequence[str]:
    return task.guesses(truth) if task.guesses is not None else ()


def _open_to(truth: Truth, task: Task) -> Sequence[str]:
    return _guesses(truth, task) or truth.targets


def _choosing(text: str) -> Callable[[Truth], Guess]:
    return lambda truth: Guess(text, float(truth.choices[truth.answer or 0] == text))


def _placing(place: int) -> Callable[[Truth], Guess]:
    return lambda truth: (
        Guess(truth.choices[place], float(place == truth.answer)) if place < len(truth.choices) else Guess(None, 0.0)
    )


def _saying(text: str, task: Task) -> Callable[[Truth], Guess]:
    return lambda truth: Guess(text, task.metric(text, truth))
