"""A task of ours as lmms-eval runs it, offline: a folder with a YAML file, utils.py, the questions and their pictures.

In: a Task. Out: FOLDER/<name>/, for `python -m lmms_eval --include_path FOLDER --tasks <name>`. What is asked is what `vlm eval` asks,
prompt included; utils.py scores by our own rules (lmms_eval_scoring.py). Names begin with `conceptvlm_`, as a
task of the harness with the same name would hide ours.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.sample import Part, Question
from eval.export.folder import whole_folder
from eval.plan import Asked, make_plan
from eval.plan_file import asked_line
from eval.task import Task

TASK_FILE = "task.json"
PICTURE = "<image>"  # where the next picture goes, for models that take one text
_UTILS = '''"""How lmms-eval asks and scores {name}: written by `vlm eval export`. Scores are those of `vlm eval`; needs conceptvlm."""

from pathlib import Path

from eval.export.lmms_eval_scoring import ExportedTask, KeepText

task = ExportedTask(Path(__file__).parent)
keep_text = KeepText


def doc_to_visual(doc):
    return task.visuals(doc)


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return task.text(doc)


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    return task.messages(doc)


def doc_to_choice(doc):
    return doc["choices"]


def doc_to_target(doc):
    return task.target(doc)


def process_results(doc, results):
    return task.process_results(doc, results)


def aggregate(results):
    return task.aggregate(results)
'''


@dataclass(frozen=True)
class Exported:
    """What was written."""

    name: str
    folder: Path
    questions: int
    pictures: int
    skipped: tuple[str, ...]  # records that could not be used: which, and why
    mode: str


@dataclass(frozen=True)
class Origin:
    """How to make the task anew when its answers are scored."""

    task: str
    is_shards: bool = False
    rule: str | None = None
    prompt: str | None = None
    limit: int | None = None


def task_name(task: Task) -> str:
    """The name in lmms-eval: letters, digits and underscores."""
    return "conceptvlm_" + re.sub(r"[^A-Za-z0-9]+", "_", task.name).strip("_")


def export_task(
    task: Task, origin: Origin, folder: Path, progress: Callable[[int, int], None] | None = None
) -> Exported:
    """Write one task.

    Args:
        origin: where the task comes from.
        folder: the task gets a folder of its name in it.
        progress: told (questions written, questions in all).

    Raises:
        ValueError: a question that cannot be scored or put, or a folder that cannot be written. Nothing is left behind.
    """
    if task.mode == "choose" and task.rule == "per-token":
        raise ValueError(f"task {task.name}: lmms-eval tells no number of tokens, so rule per-token cannot be exported")
    plan = make_plan(task, "", 0)
    name = task_name(task)
    place = folder.resolve() / name
    with whole_folder(place, TASK_FILE) as partial:
        (partial / "pictures").mkdir()
        pictures: set[str] = set()
        lines = []
        for number, asked in enumerate(plan.asked, start=1):
            lines.append(json.dumps(_document(task, plan.questions[asked.place], asked, partial, pictures)) + "\n")
            if progress is not None:
                progress(number, len(plan.asked))
        text = "".join(lines)
        # The library that reads it keeps what it read by the file's name: other questions, another name.
        questions = f"questions-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
        (partial / questions).write_text(text, encoding="utf-8")
        (partial / "utils.py").write_text(_UTILS.format(name=name), encoding="utf-8")
        (partial / f"{name}.yaml").write_text(_yaml(task, name, place / questions, plan.prompt_hash), encoding="utf-8")
        told = {"mode": task.mode, "prompt_hash": plan.prompt_hash, "questions_hash": plan.questions_hash}
        (partial / TASK_FILE).write_text(json.dumps({**vars(origin), **told}, indent=2) + "\n", encoding="utf-8")
    return Exported(name, place, len(plan.asked), len(pictures), plan.skipped, task.mode)


def command(folder: Path, exported: Sequence[Exported]) -> str:
    """What runs the exported tasks."""
    # The harness refuses choices in its chat form.
    simple = " --force_simple" if any(one.mode == "choose" for one in exported) else ""
    names = ",".join(one.name for one in exported)
    return (
        f"python -m lmms_eval --model conceptvlm --model_args pretrained=MODEL_FOLDER{simple} "
        f"--include_path {folder} --tasks {names} --output_path OUT"
    )


def _document(task: Task, question: Question, asked: Asked, folder: Path, pictures: set[str]) -> dict[str, Any]:
    """One question. Columns are texts and lists of texts, whatever the record holds: all lines must be of one kind."""
    prompted = task.ask(question)
    content = [
        ["text", part.text] if part.image is None else ["image", _keep(part.image, prompted.images, folder, pictures)]
        for part in prompted.content
    ]
    if task.mode == "choose" and (fault := _fault_of_simple(prompted.content)):
        raise ValueError(f"task {task.name}: question {question.id!r} (record {question.key}) {fault}")
    targets = asked.truth.targets
    return {
        "id": question.id,
        "question": _text(content),
        "target": targets[0] if targets else "",
        "choices": list(task.candidates(asked.truth)) if task.mode == "choose" else list(asked.truth.choices),
        "category": question.category or "",
        "content": json.dumps(content),
        "asked": json.dumps(asked_line(asked)),
    }


def _fault_of_simple(content: Sequence[Part]) -> str | None:
    """Why one text with pictures, which is all that the harness gives for choices, would not be the same question."""
    shown = any(part.image is not None for part in content)
    if shown and any(PICTURE in (part.text or "") for part in content):
        return f"has the text {PICTURE!r}, which stands for a picture in lmms-eval"
    if any(one.text is not None and two.text is not None for one, two in itertools.pairwise(content)):
        return "has two texts one after another, which lmms-eval would join; make them one in the record"
    return None


def _text(content: Sequence[Sequence[str | None]]) -> str:
    """One text: pictures at the beginning go without saying, others leave a mark."""
    kinds = [str(kind) for kind, _ in content]
    if kinds == sorted(kinds) and kinds.count("text") <= 1:  # pictures, then a text
        return "".join(value or "" for kind, value in content if kind == "text")
    return "".join(PICTURE if kind == "image" else value or "" for kind, value in content)


def _keep(image: str, images: Mapping[str, bytes], folder: Path, pictures: set[str]) -> str:
    """Write a picture once, as it is stored; gives its path in the folder."""
    data = images[image]
    name = f"pictures/{hashlib.sha256(data).hexdigest()[:32]}.{image.rsplit('.', 1)[-1]}"
    if name not in pictures:
        (folder / name).write_bytes(data)
        pictures.add(name)
    return name


def _yaml(task: Task, name: str, questions: Path, prompt_hash: str) -> str:
    settings: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "test_split": "test",
        "output_type": "multiple_choice" if task.mode == "choose" else "generate_until",
        "metadata": {"version": 1.0, "conceptvlm_task": task.name, "prompt_hash": prompt_hash},
    }
    if task.mode == "generate":
        # Without `until` the harness would stop at the first empty line.
        settings["generation_kwargs"] = {"max_new_tokens": task.max_new_tokens, "do_sample": False, "until": []}
    functions = ["doc_to_visual", "doc_to_text", "doc_to_target", "process_results"]
    functions += ["doc_to_choice"] if task.mode == "choose" else ["doc_to_messages"]
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    text += "".join(f"{one}: !function utils.{one}\n" for one in functions)
    if task.mode == "generate":
        text += (
            "filter_list:\n  - name: none\n    filter:\n      - function: take_first\n"
            "      - function: !function utils.keep_text\n"
        )
    text += "metric_list:\n  - metric: score\n    aggregation: !function utils.aggregate\n    higher_is_better: true\n"
    return text + "  - metric: unparsed\n    aggregation: mean\n    higher_is_better: false\n"
