"""From kept answers to a score with its error: extract, compare, count. Needs no model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.baselines import chance, majority
from eval.intervals import Interval, interval95
from eval.outcome import Outcome
from eval.plan import Asked, Plan
from eval.predictions import Prediction
from eval.task import RULES, Task


@dataclass(frozen=True)
class Result:
    """A score and all that it must never be shown without."""

    score: float
    n: int
    low: float  # of the 95 % interval
    high: float
    chance: float
    majority: float
    blind: float | None  # None: the task has no pictures, or the blind run was switched off
    unparsed: float  # share of answers that could not be read; they score 0
    details: Mapping[str, Any] = field(default_factory=dict)
    failed: int = (
        0  # questions that are not in n: the record was bad, or the model could not answer; `skipped` names them
    )
    truncated: int = 0  # answers that reached max_new_tokens without an end; they are scored as they are


def outcomes(plan: Plan, predictions: Mapping[str, Prediction], blind: bool = False) -> list[Outcome]:
    """Every question's outcome, in order; records that proved bad are left out.

    Raises:
        ValueError: answers are missing, or do not fit their question.
    """
    found: list[Outcome] = []
    missing: list[str] = []
    for asked in plan.asked:
        key = asked.blind_key if blind else asked.key
        seen = predictions.get(asked.key)
        if key is None or (seen is not None and seen.error is not None):
            continue
        prediction = predictions.get(key)
        if prediction is None:
            missing.append(asked.id)
        else:
            found.append(_outcome(plan.task, asked, prediction))
    if missing:
        kind = "blind answers" if blind else "answers"
        raise ValueError(
            f"task {plan.task.name}: {len(missing)} of {len(missing) + len(found)} {kind} are missing (first: "
            f"{missing[0]!r}); run the evaluation again, it goes on where it stopped"
        )
    return found


def score(plan: Plan, predictions: Mapping[str, Prediction], seconds: float | None = None) -> Result:
    """Score the kept answers of a plan."""
    task = plan.task
    seeing = outcomes(plan, predictions)
    faults = [(asked.id, predictions[asked.key].error) for asked in plan.asked]
    bad = [f"question {name!r}: {error}" for name, error in faults if error is not None]
    if not seeing:
        raise ValueError(f"task {task.name}: no question could be scored; the first: {bad[0]}")
    scored = {outcome.id for outcome in seeing}
    asked = [question for question in plan.asked if question.id in scored]
    interval = _interval(task, seeing)
    details: dict[str, Any] = {
        "mode": task.mode,
        "rule": RULES[task.rule] if task.mode == "choose" else f"{_name(task.extract)}, {_name(task.metric)}",
        "interval": interval.rule,
        **{name: asdict(used) for name, used in plan.prompts().items()},
        "prompt_hash": plan.prompt_hash,
        "questions_hash": plan.questions_hash,
        "answerer": plan.fingerprint,
        "seconds": seconds,
        "ties": sum(outcome.tied for outcome in seeing),
        "skipped": [*plan.skipped, *bad],
    }
    if task.category is not None:
        details["category"] = task.category
    value = figure(task, seeing)
    if task.headline is not None:
        scale = task.headline.scale
        details["headline"] = {"name": task.headline.name, "value": value * scale, "scale": scale}
        details["mean_over_questions"] = _mean(seeing)
    if task.summary is not None:
        details |= task.summary(seeing)
    if any(one.category is not None for one in seeing):
        details["by_category"] = by_category(seeing)
    unseeing = outcomes(plan, predictions, blind=True)
    if unseeing:
        blind_interval = _interval(task, unseeing)
        details["blind"] = {
            "n": len(unseeing),
            "low": blind_interval.low,
            "high": blind_interval.high,
            "unparsed": sum(one.answer is None for one in unseeing) / len(unseeing),
        }
    return Result(
        score=value,
        n=len(seeing),
        low=interval.low,
        high=interval.high,
        chance=chance(asked, task),
        majority=majority(asked, task),
        blind=figure(task, unseeing) if unseeing else None,
        unparsed=sum(one.answer is None for one in seeing) / len(seeing),
        details=details,
        failed=len(plan.skipped) + len(bad),
        truncated=sum(one.truncated for one in seeing),
    )


def by_category(found: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Score and number of questions of each category, by name; questions without one are left out."""
    members: dict[str, list[Outcome]] = defaultdict(list)
    for one in found:
        if one.category is not None:
            members[one.category].append(one)
    return {name: {"score": _mean(members[name]), "n": len(members[name])} for name in sorted(members)}


def _outcome(task: Task, asked: Asked, prediction: Prediction) -> Outcome:
    tied, value, answer = False, 0.0, None
    truth, output = asked.truth, prediction.output
    if task.mode == "choose":
        if not isinstance(output, list) or len(output) != len(truth.choices):
            raise ValueError(
                f"task {task.name}: {asked.id!r} has {len(truth.choices)} choices but was kept as {output!r}"
            )
        best = max(output)
        chosen = output.index(best)
        tied, answer, value = output.count(best) > 1, truth.choices[chosen], float(chosen == truth.answer)
    else:
        if isinstance(output, str) == (task.mode == "rate") or output is None:
            wanted = "a log-probability" if task.mode == "rate" else "a text"
            raise ValueError(f"task {task.name}: {asked.id!r} needs {wanted} but was kept as {output!r}")
        answer = task.extract(output if isinstance(output, str) else repr(output[0]), truth)
        value = 0.0 if answer is None else float(task.metric(answer, truth))
    return Outcome(
        truth=truth,
        place=asked.place,
        output=output,
        answer=answer,
        score=value,
        group=asked.draw,
        tied=tied,
        truncated=prediction.truncated,
    )


def _interval(task: Task, found: Sequence[Outcome]) -> Interval:
    if task.headline is not None:
        return task.headline.interval95(found)
    return interval95([one.score for one in found], [one.group for one in found] if task.group_by else None)


def figure(task: Task, found: Sequence[Outcome]) -> float:
    """The score: the task's headline, or the mean over questions."""
    return _mean(found) if task.headline is None else task.headline.value(found)


def _mean(found: Sequence[Outcome]) -> float:
    return sum(one.score for one in found) / len(found)


def _name(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
