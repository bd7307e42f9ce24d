"""Put a task to a model and score it: answer -> predictions.jsonl -> extract -> score.

In: a Task and an Answerer. Out: a Result; beside it, in FOLDER/<task name>/, every answer (predictions.jsonl),
what was run (run.json), what was asked and is true (asked.jsonl), and the result with its details (result.json). Answers
are written as they come, so a killed run goes on where it stopped; `rescore` needs no model, `rescore_kept` no questions.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.sample import BadRecord, Question
from eval.outcome import Outcome
from eval.plan import Asked, Plan, make_plan
from eval.plan_file import read_plan, write_plan
from eval.predictions import FILE_NAME, Prediction, read_predictions, task_folder, write_atomically
from eval.ranks import PATIENCE_S, Place, merge, read_all, wait_for_all, writer
from eval.score import Result, outcomes, score
from eval.task import Answer, Answerer, Task, TokenCounter

Progress = Callable[[str, int, int], None]  # (task name, questions answered, questions in all; blind ones included)


def evaluate(
    task: Task,
    answerer: Answerer,
    folder: str | Path,
    blind_limit: int | None = 500,
    batch_size: int = 256,
    progress: Progress | None = None,
    world: int = 1,
    patience_s: float = PATIENCE_S,
) -> Result:
    """Ask what has not been asked yet, then score.

    Args:
        task: the benchmark.
        answerer: the model under test.
        folder: of the run; the task gets a folder of its name in it.
        blind_limit: how many questions with pictures are also asked without them; None for all, 0 for none.
        batch_size: questions given to the answerer at a time, several times what it answers side by side, so that its batch stays
            full while some end; also the most that a killed run loses.
        progress: told after every batch, of this process's share.
        world: processes that share the questions; this is the first of them, and the others call `answer_share`.
        patience_s: how long one of the others is waited for that is not at work.

    Raises:
        ValueError: a question that cannot be scored, or an answerer that gave the wrong number of answers or a score
            that is not finite; another process ended early. What was answered before is kept.
    """
    place = task_folder(folder, task.name)
    plan = make_plan(task, answerer.fingerprint(), blind_limit)
    seconds = _seconds_before(place, plan.fingerprint)
    write_plan(place, plan)
    _write_run(place, plan, blind_limit, seconds)
    began = time.monotonic()
    if world == 1:
        merge(place)
    _answer(plan, answerer, place, Place(0, world), batch_size, progress)
    if world > 1:
        wait_for_all(place, Place(0, world), lambda kept: _missing(plan, kept), patience_s)
    seconds += time.monotonic() - began
    _write_run(place, plan, blind_limit, seconds)
    return _score(place, plan, seconds)


def answer_share(
    task: Task,
    answerer: Answerer,
    folder: str | Path,
    place: Place,
    blind_limit: int | None = 500,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> None:
    """What a process other than the first does in `evaluate`: its share of the questions, kept in a file of its own."""
    plan = make_plan(task, answerer.fingerprint(), blind_limit)
    _answer(plan, answerer, task_folder(folder, task.name), place, batch_size, progress)


def rescore(folder: str | Path, task: Task) -> Result:
    """Score the answers kept in `folder` anew, without a model: after a change of extraction or of right answers.

    Raises:
        ValueError: nothing was run there, the run is not finished, or prompt or questions have changed since.
    """
    place, run, plan = _reopen(folder, task)
    return _score(place, plan, run["seconds"])


def read_outcomes(folder: str | Path, task: Task, blind: bool = False) -> list[Outcome]:
    """How each question of a finished run went, for reports and error analysis."""
    place, _, plan = _reopen(folder, task)
    return outcomes(plan, read_predictions(place / FILE_NAME), blind)


def rescore_kept(folder: str | Path, task: Task) -> Result:
    """Like `rescore`, but by the right answers of the time of the run: needs neither questions nor pictures.

    Raises:
        ValueError: nothing was run there, the run is not finished, or the task asks in another way now.
    """
    place = task_folder(folder, task.name)
    run = _read_run(place)
    return _score(place, read_plan(place, task), None if run is None else run["seconds"])


def kept_outcomes(folder: str | Path, task: Task, blind: bool = False) -> list[Outcome]:
    """Like `read_outcomes`, by the right answers of the time of the run: needs neither questions nor pictures."""
    place = task_folder(folder, task.name)
    return outcomes(read_plan(place, task), read_predictions(place / FILE_NAME), blind)


def _answer(
    plan: Plan, answerer: Answerer, folder: Path, place: Place, batch_size: int, progress: Progress | None
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    mine = [question for number, question in enumerate(plan.asked) if place.owns(number)]
    with writer(folder, place) as kept_file:
        kept = read_all(folder)
        bad = _bad(plan, kept)
        total = len(mine) + sum(question.blind_key is not None for question in mine)
        done = 0
        for blind in (False, True):
            wanted = [question for question in mine if not blind or question.blind_key is not None]
            todo = [question for question in wanted if _key(question, blind) not in kept]
            todo = [question for question in todo if not blind or question.id not in bad]
            done += len(wanted) - len(todo)
            for batch in _batches(todo, batch_size):
                answered = _ask_batch(plan, answerer, batch, blind)
                bad |= {prediction.id for prediction in answered if prediction.error is not None}
                kept_file.append(answered)
                done += len(batch)
                if progress is not None:
                    progress(plan.task.name, done, total)


def _bad(plan: Plan, kept: Mapping[str, Prediction]) -> set[str]:
    """Questions whose record proved bad: they are not asked blind."""
    return {one.id for one in plan.asked if one.key in kept and kept[one.key].error is not None}


def _missing(plan: Plan, kept: Mapping[str, Prediction]) -> list[int]:
    """The numbers of the questions that lack an answer, the blind one included."""
    bad = _bad(plan, kept)
    return [
        number
        for number, one in enumerate(plan.asked)
        if one.key not in kept or (one.blind_key is not None and one.id not in bad and one.blind_key not in kept)
    ]


def _ask_batch(plan: Plan, answerer: Answerer, batch: Sequence[Asked], blind: bool) -> list[Prediction]:
    prompted = [plan.task.ask(plan.questions[question.place]) for question in batch]
    if blind:
        prompted = [question.without_images() for question in prompted]
    keys = [_key(question, blind) for question in batch]
    try:
        if plan.task.mode == "generate":
            outputs: Sequence[Answer | list[float]] = _written(plan.task, answerer, prompted)
        else:
            outputs = _ranked(answerer, prompted, [plan.task.candidates(one.truth) for one in batch], plan.task)
    except BadRecord as error:
        if len(batch) == 1:
            return [Prediction(batch[0].id, blind, keys[0], error=str(error))]
        # One picture of the batch cannot be decoded: asked one by one, the others still get their answers.
        return [prediction for question in batch for prediction in _ask_batch(plan, answerer, [question], blind)]
    return [
        Prediction(question.id, blind, key, output.text, output.truncated, output.tokens)
        if isinstance(output, Answer)
        else Prediction(question.id, blind, key, output)
        for question, key, output in zip(batch, keys, outputs, strict=True)
    ]


def _written(task: Task, answerer: Answerer, questions: Sequence[Question]) -> list[Answer]:
    """The answerer's answers, checked."""
    name = type(answerer).__name__
    answers = answerer.generate(questions, task.max_new_tokens)
    _check_count(name, "answers", len(answers), len(questions), "questions")
    found = []
    for one in answers:
        if not isinstance(one, Answer | str):
            raise ValueError(f"{name}.generate gave {one!r} as an answer; it must be an eval.task.Answer or a string")
        found.append(Answer(one) if isinstance(one, str) else one)
    return found


def _ranked(
    answerer: Answerer, questions: Sequence[Question], candidates: Sequence[Sequence[str]], task: Task
) -> list[list[float]]:
    """What each candidate is ranked by, checked."""
    name = type(answerer).__name__
    rows = answerer.score(questions, candidates)
    _check_count(name, "rows of scores", len(rows), len(questions), "questions")
    for question, listed, row in zip(questions, candidates, rows, strict=True):
        _check_count(name, f"scores for {question.id!r}", len(row), len(listed), "candidates")
        for candidate, value in zip(listed, row, strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"{name}.score gave {value} for candidate {candidate!r} of question {question.id!r}; a "
                    "log-probability must be finite; check the model's weights for NaN"
                )
    if task.rule != "per-token":
        return [[float(value) for value in row] for row in rows]
    if not isinstance(answerer, TokenCounter):
        raise ValueError(f"{name} has no count_tokens, which rule per-token divides by; use rule sum or letter")
    counts = [answerer.count_tokens(listed) for listed in candidates]
    return [
        [float(value) / count for value, count in zip(row, counted, strict=True)]
        for row, counted in zip(rows, counts, strict=True)
    ]


def _check_count(name: str, what: str, got: int, needed: int, of: str) -> None:
    if got != needed:
        raise ValueError(f"{name} gave {got} {what}; {needed} {of} need one each")


def _score(place: Path, plan: Plan, seconds: float | None) -> Result:
    result = score(plan, read_predictions(place / FILE_NAME), seconds)
    write_atomically(place / "result.json", json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n")
    return result


def _reopen(folder: str | Path, task: Task) -> tuple[Path, dict[str, Any], Plan]:
    place = task_folder(folder, task.name)
    run = _read_run(place)
    if run is None:
        raise ValueError(f"no run of task {task.name} in {folder}: {place / 'run.json'} is missing; evaluate it first")
    return place, run, make_plan(task, run["answerer"], run["blind_limit"])


def _read_run(place: Path) -> dict[str, Any] | None:
    path = place / "run.json"
    if not path.exists():
        return None
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"answerer": run["answerer"], "blind_limit": run["blind_limit"], "seconds": run["seconds"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what an evaluation writes ({error}); delete it and evaluate again") from error


def _seconds_before(place: Path, fingerprint: str) -> float:
    run = _read_run(place)
    return float(run["seconds"]) if run is not None and run["answerer"] == fingerprint else 0.0


def _write_run(place: Path, plan: Plan, blind_limit: int | None, seconds: float) -> None:
    run = {"task": plan.task.name, "answerer": plan.fingerprint, "blind_limit": blind_limit, "seconds": seconds}
    run |= {} if plan.task.source is None else {"source": plan.task.source}
    write_atomically(place / "run.json", json.dumps(run, indent=2) + "\n")


def _key(question: Asked, blind: bool) -> str:
    if not blind:
        return question.key
    assert question.blind_key is not None
    return question.blind_key


def _batches(todo: Sequence[Asked], size: int) -> Iterator[Sequence[Asked]]:
    for start in range(0, len(todo), size):
        yield todo[start : start + size]
