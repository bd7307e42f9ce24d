import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eval.export.lmms_eval import Origin, command, export_task, task_name
from eval.export.lmms_eval_scoring import KeepText, keep, kept
from eval.run import evaluate
from eval.task import Task, find_task, with_rule
from eval.tasks.shards import shards_task

Shard = Callable[..., Path]


def load(folder: Path) -> tuple[ModuleType, list[dict[str, Any]]]:
    """utils.py and the questions, as the harness loads them."""
    spec = importlib.util.spec_from_file_location("exported_utils", folder / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (path,) = folder.glob("questions-*.jsonl")
    return module, [json.loads(line) for line in path.read_text().splitlines()]


def through_the_harness(text: str) -> str:
    """What becomes of an answer between the model and the scoring: our filter, then what the harness does to every text."""
    import re

    (text,) = KeepText().apply([text], [])
    return re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip()


SAID = ["a", " \n b\nQ: next", "", "<think>a</think> b", "a b", "  ", "kept as JSON: 1", "ünd <b>"]


@pytest.mark.parametrize("mode", ["generate", "choose"])
def test_scores_are_those_of_our_own_run_in_any_order_and_with_questions_twice(
    shard: Shard, tmp_path: Path, parrot: Any, mode: Any
) -> None:
    path = shard(*({"group": str(number // 2)} for number in range(len(SAID))))
    task = shards_task(path, mode)
    answerer = parrot(SAID)
    expected = evaluate(task, answerer, tmp_path / "run", blind_limit=0)
    done = export_task(task, Origin(task.name, is_shards=True), tmp_path / "tasks")
    utils, docs = load(done.folder)
    rows = answerer.score([*task.questions()], [task.candidates(one.truth) for one in _asked(task)])
    told = []
    for doc, text, row in zip(docs, SAID, rows, strict=True):
        results = [through_the_harness(text)] if mode == "generate" else [(-value, False) for value in row]
        told.append(utils.process_results(doc, results))
    per_question = [one["score"] for one in told]
    shuffled = json.loads(json.dumps([*per_question[::-1], per_question[3]]))
    assert utils.aggregate(shuffled) == expected.score
    assert sum(one["unparsed"] for one in told) / len(told) == expected.unparsed
    assert 0 < expected.score < 1


def _asked(task: Task) -> Any:
    from eval.plan import make_plan

    return make_plan(task, "", 0).asked


@pytest.mark.parametrize("text", [*SAID, "a\u2028", "\x00", "<", 'quote " and \\'])
def test_a_text_comes_through_as_it_was_said(text: str) -> None:
    assert kept(through_the_harness(text)) == text


def test_a_plain_answer_is_left_readable() -> None:
    assert keep("a dog") == "a dog"


def test_the_harness_gets_the_question_with_our_prompt(shard: Shard, tmp_path: Path) -> None:
    task = shards_task(shard({}), "generate", prompt="Look. {question} Answer!")
    done = export_task(task, Origin(task.name, is_shards=True), tmp_path)
    utils, (doc,) = load(done.folder)
    assert utils.doc_to_text(doc) == "Look. Which? Answer!"
    picture, text = utils.doc_to_messages(doc)[0]["content"]
    assert text == {"type": "text", "text": "Look. Which? Answer!"}
    assert picture["url"].size == (1, 1)
    picture["url"].close()
    (visual,) = utils.doc_to_visual(doc)
    visual.close()
    assert utils.doc_to_target(doc) == "a"


def test_pictures_amid_the_text_leave_a_mark(shard: Shard, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Is "}, {"type": "image", "image": "0.png"}, {"type": "text", "text": " red?"}]
    task = shards_task(shard({"content": parts}), "choose")
    done = export_task(task, Origin(task.name, is_shards=True), tmp_path)
    utils, (doc,) = load(done.folder)
    assert utils.doc_to_text(doc) == "Is <image> red?"
    assert (utils.doc_to_choice(doc), utils.doc_to_target(doc)) == (["a", "b"], 0)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([{"type": "image", "image": "0.png"}, {"type": "text", "text": "an <image>?"}], "stands for a picture"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "two texts"),
    ],
)
def test_a_choice_that_one_text_cannot_carry_is_refused_and_nothing_is_left(
    shard: Shard, tmp_path: Path, content: Any, fault: str
) -> None:
    task = shards_task(shard({}, {"content": content}), "choose")
    with pytest.raises(ValueError, match=f"'q1'.*{fault}"):
        export_task(task, Origin(task.name, is_shards=True), tmp_path / "tasks")
    assert not list((tmp_path / "tasks").iterdir())


def test_an_export_replaces_an_older_one_and_nothing_else(shard: Shard, tmp_path: Path) -> None:
    task = shards_task(shard({}), "choose")
    for _ in range(2):
        done = export_task(task, Origin(task.name, is_shards=True), tmp_path / "tasks")
    (tmp_path / "mine" / done.name).mkdir(parents=True)
    with pytest.raises(ValueError, match="not written by this command"):
        export_task(task, Origin(task.name, is_shards=True), tmp_path / "mine")


def test_a_rule_that_needs_numbers_of_tokens_is_refused(tmp_path: Path) -> None:
    task = with_rule(find_task("demo/presence"), "per-token")
    with pytest.raises(ValueError, match="per-token cannot be exported"):
        export_task(task, Origin(task.name, rule="per-token"), tmp_path)


def test_a_folder_that_is_no_export_is_told_of(shard: Shard, tmp_path: Path) -> None:
    done = export_task(shards_task(shard({}), "choose"), Origin("shards/some", is_shards=True), tmp_path)
    (done.folder / "task.json").write_text("{}")
    with pytest.raises(ValueError, match="export it again"):
        load(done.folder)


def test_names_and_the_command_are_fit_for_the_harness(shard: Shard, tmp_path: Path) -> None:
    assert task_name(find_task("demo/unseen-style")) == "conceptvlm_demo_unseen_style"
    done = export_task(shards_task(shard({}), "choose"), Origin("shards/some", is_shards=True), tmp_path)
    assert "--force_simple" in command(tmp_path, [done])
    done = export_task(shards_task(shard({}), "generate"), Origin("shards/some", is_shards=True), tmp_path)
    assert "--force_simple" not in command(tmp_path, [done])
