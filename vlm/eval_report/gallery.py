"""Answers to look at: some right, some wrong, some that could not be read, by every run side by side.

In: runs. Out: `Shown` questions, chosen by a hash of their ids, so that the same ones are shown again. Texts and pictures come
from the benchmark, where it is there and asks what was asked; else a card does without them.
"""

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from data.image_header import check_header
from data.sample import BadRecord, Question
from eval.outcome import Outcome
from eval.plan import answer_key
from eval.plan_file import read_plan
from eval.subset import spread
from eval.task import Task
from eval.tasks.long_context import measured
from vlm.eval_report.runs import Run, TaskRun
from vlm.inference.measure import measure_of

SEED = "gallery-1"
KINDS = ("right", "in part", "wrong", "unparsed")
SIDE_PX = 192  # of a thumbnail's longer side, at most
PICTURES = 4  # of a question
BUDGET = 3_000_000  # bytes of pictures in all
# Control signs, and those that turn the direction of what follows: they would hide how an answer reads.
_UNFIT = re.compile("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
LONGEST = 420  # signs of a question or an answer; the middle of what is longer is left out


@dataclass(frozen=True)
class Said:
    """What a run answered."""

    label: str
    kind: str  # of KINDS
    score: float
    text: str
    truncated: bool


@dataclass(frozen=True)
class Shown:
    """A question to look at."""

    task: str
    id: str
    text: str  # empty where the benchmark is not there
    pictures: tuple[str, ...]  # data URIs
    more_pictures: int  # that are not shown
    truth: str
    said: tuple[Said, ...]

    @property
    def kind(self) -> str:
        """By the first run that was asked it."""
        return self.said[0].kind


def kind_of(one: Outcome) -> str:
    """The kind of an outcome."""
    if one.answer is None:
        return "unparsed"
    return "right" if one.score >= 1 else "in part" if one.score > 0 else "wrong"


def choose(runs: Sequence[Run], name: str, each: int) -> list[str]:
    """The ids of up to `each` questions of each kind, by the first run that has answers to this task."""
    own = next((run.tasks[name] for run in runs if name in run.tasks and run.tasks[name].outcomes), None)
    if own is None:
        return []
    ordered = sorted(own.outcomes, key=lambda one: hashlib.sha256(f"{SEED}|{name}|{one.id}".encode()).digest())
    chosen: list[str] = []
    for kind in KINDS:
        chosen += [one.id for one in ordered if kind_of(one) == kind][:each]
    return chosen


class Gallery:
    """Makes cards until the pictures' budget is spent.

    Args:
        model: folder of the model whose tokens long contexts were counted in; None: the demo's.
    """

    def __init__(self, runs: Sequence[Run], model: Path | None = None) -> None:
        self._runs, self._left = runs, BUDGET
        self._model = model

    def cards(self, name: str, each: int) -> list[Shown]:
        """The chosen questions of one task."""
        ids = choose(self._runs, name, each)
        having = [(run, run.tasks[name]) for run in self._runs if name in run.tasks and run.tasks[name].outcomes]
        by_id = [(run, {one.id: one for one in own.outcomes}) for run, own in having]
        if not ids:
            return []
        questions = self._questions(having[0][0], having[0][1], ids)
        return [self._card(name, one, questions.get(one), by_id) for one in ids]

    def _card(
        self, name: str, one: str, question: Question | None, by_id: Sequence[tuple[Run, dict[str, Outcome]]]
    ) -> Shown:
        found = [(run.label, outcomes[one]) for run, outcomes in by_id if one in outcomes]
        pictures, more = self._pictures(question) if question is not None else ((), 0)
        return Shown(
            task=name,
            id=one,
            text="" if question is None else words(question),
            pictures=pictures,
            more_pictures=more,
            truth=shorten(", or ".join(found[0][1].targets) or str(found[0][1].truth.box or "")),
            said=tuple(
                Said(label, kind_of(outcome), outcome.score, answer_of(outcome), outcome.truncated)
                for label, outcome in found
            ),
        )

    def _questions(self, run: Run, own: TaskRun, ids: Sequence[str]) -> dict[str, Question]:
        """The questions of these ids, where they are still what the run was asked."""
        assert own.task is not None
        task = own.task if self._model is None else self._counted_by_model(own.task)
        try:
            plan = read_plan(run.folder / task.name, task)
            questions = task.questions()
        except (ValueError, OSError):  # the benchmark is not there
            return {}
        found: dict[str, Question] = {}
        drawn = spread(len(questions), len(plan.asked))
        for asked in plan.asked:
            if asked.id not in ids:
                continue
            # --limit: the places are those among the questions that were drawn.
            for place in dict.fromkeys((asked.place, *drawn[asked.place : asked.place + 1])):
                try:
                    question = questions[place]
                    is_same = answer_key(task, task.ask(question), plan.fingerprint) == asked.key
                except (ValueError, OSError, LookupError):
                    continue
                if is_same:
                    found[asked.id] = question
                    break
        return found

    def _counted_by_model(self, task: Task) -> Task:
        folder = self._model
        assert folder is not None
        return measured(task, lambda: measure_of(folder))

    def _pictures(self, question: Question) -> tuple[tuple[str, ...], int]:
        names = [part.image for part in question.content if part.image is not None]
        shown: list[str] = []
        for name in names[:PICTURES]:
            uri = thumbnail(question.images[name])
            if uri is None or len(uri) > self._left:
                break
            self._left -= len(uri)
            shown.append(uri)
        return tuple(shown), len(names) - len(shown)


def thumbnail(data: bytes) -> str | None:
    """A small JPEG of a stored picture as a data URI; None if it cannot be decoded."""
    try:
        check_header(data)
        with Image.open(io.BytesIO(data)) as stored:
            picture = ImageOps.exif_transpose(stored).convert("RGBA")
        picture.thumbnail((SIDE_PX, SIDE_PX))
        canvas = Image.new("RGB", picture.size, (255, 255, 255))
        canvas.paste(picture, mask=picture.getchannel("A"))
        buffer = io.BytesIO()
        canvas.save(buffer, format="JPEG", quality=82)
    except (BadRecord, OSError, ValueError, SyntaxError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def words(question: Question) -> str:
    """The question's own text, and its choices."""
    text = "\n".join(part.text.strip() for part in question.content if part.text is not None)
    choices = "".join(f"\n○ {choice}" for choice in question.choices)
    return shorten(text) + shorten(choices)


def answer_of(one: Outcome) -> str:
    """What was said: the text as written, or the choice that ranked first."""
    return shorten(one.output if isinstance(one.output, str) else one.answer or "")


def shorten(text: str) -> str:
    """The beginning and the end of a long text, and nothing that a page cannot hold."""
    clean = _UNFIT.sub("\ufffd", text.replace("\r\n", "\n"))
    clean = clean.encode("utf-8", "replace").decode("utf-8")
    if len(clean) <= LONGEST:
        return clean
    half = LONGEST // 2
    return f"{clean[:half]} […] {clean[-half:]}"
