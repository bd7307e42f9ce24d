"""How lmms-eval asks and scores a task that was exported: utils.py of its folder calls what stands here.

In: the harness's documents and responses. Out: scores by the task's own extraction, metric and headline, in the order of the
questions, so that they are those of `vlm eval` to the last digit, over any number of ranks.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eval.export.lmms_eval import TASK_FILE
from eval.outcome import Outcome
from eval.plan import Asked, Plan
from eval.plan_file import parse_asked
from eval.predictions import Prediction
from eval.score import figure, outcomes
from eval.task import Rule, Task, find_task, with_prompt, with_rule
from eval.tasks.shards import shards_task

_KEPT = "kept as JSON: "


class KeepText:
    """A filter by which an answer reaches the scoring as it was said.

    The harness strips blanks and what stands between <think> and </think> before it scores, and some rules look at the
    blanks. A text that would be changed goes as JSON, without a "<".
    """

    def apply(self, resps: Iterable[Any], docs: Any) -> list[Any]:
        """Of each response; those that are no text stay."""
        return [keep(one) if isinstance(one, str) else one for one in resps]


def keep(text: str) -> str:
    """The text, or what the harness leaves as it is."""
    if text == text.strip() and "<" not in text and not text.startswith(_KEPT):
        return text
    return _KEPT + json.dumps(text).replace("<", "\\u003c")


def kept(text: str) -> str:
    """The reverse of `keep`."""
    return str(json.loads(text.removeprefix(_KEPT))) if text.startswith(_KEPT) else text


class ExportedTask:
    """A folder that `vlm eval export --to lmms-eval` wrote.

    Raises:
        ValueError: it is not, or the task is ranked or answered in another way now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            told: dict[str, Any] = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
            self.task = _remade(told)
            mode = told["mode"]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder} is not what `vlm eval export` writes ({error!r}); export it again") from error
        if self.task.mode != mode:
            raise ValueError(f"task {self.task.name} is a task of mode {self.task.mode} now; export it again")

    def visuals(self, doc: Mapping[str, Any]) -> list[Image.Image]:
        """The pictures, in order. Opened and not read, so that a model of ours takes their bytes from the file."""
        return [Image.open(self.folder / value) for kind, value in json.loads(doc["content"]) if kind == "image"]

    def text(self, doc: Mapping[str, Any]) -> str:
        """The question as one text."""
        return str(doc["question"])

    def messages(self, doc: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The question as a message, each picture in its place."""
        content = [
            {"type": "text", "text": value}
            if kind == "text"
            else {"type": "image", "url": Image.open(self.folder / value)}
            for kind, value in json.loads(doc["content"])
        ]
        return [{"role": "user", "content": content}]

    def target(self, doc: Mapping[str, Any]) -> int | str:
        """The place of the right choice, or the first right answer."""
        answer = _asked(doc).truth.answer
        return str(doc["target"]) if self.task.mode == "generate" or answer is None else answer

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """The score of one question: for a choice, results are pairs of loss and greediness; else one text."""
        # A 0 without its sign, so that a tie of -0.0 and 0.0 stays one.
        said = kept(results[0]) if self.task.mode == "generate" else [0.0 - float(loss) for loss, _ in results]
        told = {"asked": doc["asked"], "output": said}
        (outcome,) = self._outcomes([told])
        return {
            "score": {**told, "id": outcome.id, "answer": outcome.answer, "score": outcome.score},
            "unparsed": float(outcome.answer is None),
        }

    def aggregate(self, results: Sequence[Mapping[str, Any]]) -> float:
        """The task's figure. Ranks give their questions in any order, and may give one twice."""
        return figure(self.task, list(self._outcomes(results)))

    def _outcomes(self, told: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
        asked = {one.place: (one, output) for one, output in ((_asked(some), some["output"]) for some in told)}
        ordered = [asked[place] for place in sorted(asked)]
        # Keyed by place: the keys of the export name no model.
        plan = Plan(self.task, (), tuple(one for one, _ in ordered), "", "", "", ())
        yield from outcomes(plan, {one.key: Prediction(one.id, False, one.key, said) for one, said in ordered})


def _asked(doc: Mapping[str, Any]) -> Asked:
    return parse_asked(json.loads(doc["asked"]))


def _remade(told: Mapping[str, Any]) -> Task:
    if told["is_shards"]:
        task = shards_task("", told["mode"], told["task"])
    else:
        task = find_task(told["task"])
    rule: Rule | None = told["rule"]
    task = task if rule is None else with_rule(task, rule)
    return task if told["prompt"] is None else with_prompt(task, told["prompt"])
