import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data.sample import Question
from eval.run import evaluate
from eval.task import Task
from vlm.inference.answer import ModelAnswerer
from vlm.inference.examples import ExampleView, collect_examples
from vlm.inference.report import write_report
from vlm.inference.viewer import view_concepts
from vlm.model import VisionLanguageModel

Make = Callable[..., Question]
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The page's text and elements; fails where an element is closed out of order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def examples(model: VisionLanguageModel, make_question: Make) -> list[ExampleView]:
    question = make_question("Is <this> a cat?", "red", choices=("yes", "no"), answer=0)
    view = view_concepts(model, question, "no")
    return [
        ExampleView("demo/choice", "Is <this> a cat?", "no", "yes", 0.0, view, ("yes", "no")),
        ExampleView("demo/caption", "What is it?", "a <red> cat", "a red dot", 0.6, view),
        ExampleView("demo/caption", "What is it?", "cat", "cat", 1.0, view),
    ]


def test_the_report_is_one_file_that_needs_nothing_else(tmp_path: Path, examples: list[ExampleView]) -> None:
    path = tmp_path / "deep" / "report.html"
    curves = {"train/loss": ((0.0, 8.0), (10.0, 3.0)), "val/compression_image": ((10.0, 2.1),)}
    table = "<table><tr><td>0.7</td></tr></table>"
    write_report(
        path, title="Demo & run", curves=curves, scores_html=table, examples=examples, facts={"Steps": "10"}, lead="Hi"
    )
    html = path.read_text()
    page = Page(html)
    assert page.tags.count("article") == 3
    assert page.tags.count("svg") == 2 + 3
    assert "script" not in page.tags
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    for words in ("Demo & run", "Steps", "0.7", "Is <this> a cat?", "✗ wrong", "✓ right", "in part, 0.60"):
        assert words in page.text
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_report_without_logs_and_examples_can_still_be_read(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", title="t", curves={}, scores_html="", examples=[], facts={})
    assert "nothing was logged" in Page((tmp_path / "report.html").read_text()).text


def test_examples_are_drawn_from_all_tasks_without_regard_to_their_scores(
    model: VisionLanguageModel, make_question: Make, tmp_path: Path
) -> None:
    asked = [
        make_question("Which?", colour, id=f"{colour}{n}", choices=("red", "blue"), answer=n % 2, answers=("red",))
        for n, colour in enumerate(("red", "blue", "red", "green", "blue"))
    ]
    tasks = [
        Task(name="t/choose", questions=lambda: asked, mode="choose"),
        Task(name="t/say", questions=lambda: asked[:1], max_new_tokens=3),
    ]
    results = [evaluate(task, ModelAnswerer(model), tmp_path, blind_limit=0) for task in tasks]
    found = collect_examples(model, tmp_path, tasks, count=5)
    assert [example.task for example in found] == ["t/choose"] * 4 + ["t/say"]
    everything = collect_examples(model, tmp_path, tasks, count=99)
    assert len(everything) == 6
    share_right = sum(example.score for example in everything if example.task == "t/choose") / 5
    assert share_right == pytest.approx(results[0].score)
    assert all(example.answer in ("red", "blue") for example in everything if example.choices)
