"""Pages of real runs: scores as the runs tell them, hostile texts escaped, questions and pictures where they are there."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.sample import Question
from data.shards import write_shard
from eval.compare import compare_outcomes
from eval.run import evaluate, kept_outcomes
from eval.subset import limited
from eval.task import Answer, Task
from eval.tasks.long_context import long_task
from eval.tasks.shards import shards_task
from vlm.cli import main
from vlm.eval_report import gallery, runs
from vlm.eval_report.gallery import Gallery, choose, shorten, thumbnail
from vlm.eval_report.heat_map import maps
from vlm.eval_report.page import draw_page
from vlm.eval_report.runs import less_first, read_runs, task_names
from vlm.eval_report.scores import markdown, row

HOSTILE = '</p></bdi><script>alert(1)</script><img src=x onerror="alert(2)"><style>*{}</style>&lt; \x07\u202e \'"'
NAMES = ("long/retrieve-one@512", "long/retrieve-one@700", "long/picture-needle@512")


class Guesses:
    """Right where a hash says so; else hostile, or silent."""

    def __init__(self, name: str, skill: float) -> None:
        self.name, self.skill = name, skill

    def fingerprint(self) -> str:
        return self.name

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        return [self.say(question) for question in questions]

    def say(self, question: Question) -> Answer:
        share = hashlib.sha256(f"{self.name}{question.id}".encode()).digest()[0] / 256
        if share < self.skill:
            return Answer(question.answers[0])
        return Answer("", truncated=True) if share > 0.9 else Answer(HOSTILE)

    def score(self, questions: Any, candidates: Any) -> list[list[float]]:
        raise AssertionError("nothing to choose here")


def some(name: str) -> Task:
    kind, length = name.removeprefix("long/").split("@")
    return limited(long_task(kind, int(length)), 20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("runs")
    for label, skill in (("weak<b>", 0.3), ("strong", 0.8)):
        for name in NAMES:
            evaluate(some(name), Guesses(label, skill), place / label, blind_limit=5)
    return [place / "weak<b>", place / "strong"]


class Reader(HTMLParser):
    """Every element of a page, and what it must not hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "line", "circle", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(folders: Sequence[Path], each: int = 3) -> str:
    found = read_runs(folders)
    cards = Gallery(found)
    return draw_page(found, {name: cards.cards(name, each) for name in task_names(found)})


def test_hostile_answers_and_labels_stay_text(folders: list[Path]) -> None:
    page = page_of(folders)
    read = Reader(page)
    assert "alert(1)" in page
    assert not read.open
    assert read.tags.count("style") == 1
    assert not {"script", "link", "iframe", "b onerror"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    addresses = [value or "" for name, value in read.attributes if name in ("src", "href", "xlink:href", "action")]
    assert addresses
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", value) for value in addresses)
    assert "\x07" not in page
    assert "weak&lt;b&gt;" in page


def test_the_figures_are_those_of_the_runs(folders: list[Path]) -> None:
    page, table = page_of(folders), markdown(read_runs(folders))
    for folder in folders:
        for name in NAMES:
            result = json.loads((folder / name / "result.json").read_text())
            told = (
                f"{result['score']:.3f}",
                f"[{result['low']:.3f}, {result['high']:.3f}]",
                f"{result['unparsed']:.1%}",
            )
            assert all(one in page for one in told)
            line = next(one for one in table.splitlines() if f"| {name} | {folder.name.replace('<', '&lt;')}" in one)
            assert all(one in line for one in told)
            assert line.split(" | ")[9] == str(result["truncated"])


def test_differences_are_paired_and_with_the_first(folders: list[Path]) -> None:
    weak, strong = read_runs(folders)
    compared = less_first([weak, strong], strong, NAMES[0])
    task = some(NAMES[0])
    first, second = (kept_outcomes(folder, task) for folder in folders)
    assert compared == compare_outcomes(NAMES[0], [second], [first], ["a", "b"])
    assert compared is not None
    mean = [sum(one.score for one in outcomes) / 20 for outcomes in (second, first)]
    assert compared.difference == pytest.approx(mean[0] - mean[1])
    assert compared.covers == "questions"
    assert less_first([weak, strong], weak, NAMES[0]) is None


def test_runs_of_other_questions_are_shown_without_a_difference(folders: list[Path], tmp_path: Path) -> None:
    task = long_task("retrieve-one", 512)
    kept = task.questions()[1::25]
    evaluate(replace(task, questions=lambda: kept), Guesses("strong", 0.8), tmp_path / "other")
    found = read_runs([folders[0], tmp_path / "other"])
    assert less_first(found, found[1], NAMES[0]) is None
    assert "| 4 |" in markdown(found)


def test_the_heat_map_has_the_mean_and_number_of_each_cell(folders: list[Path]) -> None:
    weak = read_runs(folders)[0]
    cells = maps(weak)["retrieve-one"]
    assert {length for _, length in cells} == {512, 700}
    assert sum(count for _, count in cells.values()) == 40
    for length in (512, 700):
        outcomes = kept_outcomes(folders[0], some(f"long/retrieve-one@{length}"))
        for depth in range(5):
            own = [one.score for one in outcomes if min(int(one.truth.meta["depth"] * 5), 4) == depth]
            assert cells[depth, length] == (sum(own) / len(own), len(own))


def test_the_gallery_is_the_same_again_and_holds_each_kind(folders: list[Path]) -> None:
    found = read_runs(folders)
    for name in NAMES:
        assert choose(found, name, 2) == choose(read_runs(folders), name, 2)
        kinds = [one.kind for one in Gallery(found).cards(name, 2)]
        outcomes = found[0].tasks[name].outcomes
        having = {gallery.kind_of(one) for one in outcomes}
        assert set(kinds) == having
        assert all(kinds.count(kind) <= 2 for kind in kinds)


def test_cards_show_the_question_that_was_asked_and_its_pictures(folders: list[Path]) -> None:
    cards = Gallery(read_runs(folders)).cards("long/picture-needle@512", 2)
    assert all("What does picture" in one.text for one in cards)
    assert all(len(one.pictures) == 4 for one in cards)
    assert [said.label for said in cards[0].said] == ["weak<b>", "strong"]


def test_a_benchmark_that_changed_since_is_not_shown_as_what_was_asked(folders: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[1], copy)
    path = copy / NAMES[0] / "asked.jsonl"
    lines = path.read_text().splitlines()
    told = [json.loads(line) for line in lines]
    kept = (copy / NAMES[0] / "predictions.jsonl").read_text()
    for line in told[1:]:
        kept = kept.replace(line["key"], line["key"][::-1])
        line["key"] = line["key"][::-1]
    path.write_text("".join(json.dumps(line) + "\n" for line in told))
    (copy / NAMES[0] / "predictions.jsonl").write_text(kept)
    cards = Gallery(read_runs([copy])).cards(NAMES[0], 2)
    assert cards
    assert all(one.text == "" and one.pictures == () for one in cards)
    assert "the question is not shown" in page_of([copy])


def test_pictures_stay_within_their_budget(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "BUDGET", 9000)
    cards = Gallery(read_runs(folders)).cards("long/picture-needle@512", 3)
    shown = [uri for one in cards for uri in one.pictures]
    assert 0 < sum(map(len, shown)) <= 9000
    assert all(len(one.pictures) + one.more_pictures == 4 for one in cards)


def test_a_task_of_shards_has_its_scores_and_answers_without_the_questions(folders: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[1] / NAMES[0], copy / "shards" / "mine")
    found = read_runs([copy])
    assert list(found[0].tasks) == ["shards/mine"]
    page = page_of([copy])
    assert "shards/mine" in page
    assert "the question is not shown" in page
    assert "✓ right" in page


def test_a_task_of_shards_shows_its_questions_where_the_shards_still_lie(tmp_path: Path) -> None:
    records = []
    for number in range(4):
        file = io.BytesIO()
        Image.new("RGB", (40, 30), (60 * number, 90, 120)).save(file, "PNG")
        content = [{"type": "image", "image": "0.png"}, {"type": "text", "text": f"Which, {number}?"}]
        told = {"id": f"mine-{number}", "content": content, "answers": [f"answer {number}"]}
        records.append((f"{number:04}", {"json": json.dumps(told).encode(), "0.png": file.getvalue()}))
    write_shard(tmp_path / "mine.tar", records)
    evaluate(shards_task(tmp_path / "mine.tar", "generate"), Guesses("x", 0.5), tmp_path / "run", blind_limit=0)
    for there in (True, False):
        cards = Gallery(read_runs([tmp_path / "run"])).cards("shards/mine", 4)
        assert len(cards) == 4
        assert all(one.text.startswith("Which, ") == there and len(one.pictures) == there for one in cards)
        (tmp_path / "mine.tar").unlink(missing_ok=True)


def test_a_task_that_asks_otherwise_now_has_its_scores_and_says_why_no_answers(
    folders: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[1], copy)
    asked = copy / NAMES[0] / "asked.jsonl"
    asked.write_text(asked.read_text().replace('"prompt_hash": "', '"prompt_hash": "f', 1))
    page = page_of([copy])
    assert f"{NAMES[0]}: answers are not shown: " in page
    assert "asked with a prompt that it does not have now" in page


def test_what_is_no_picture_has_no_thumbnail() -> None:
    assert thumbnail(b"") is None
    assert thumbnail(b"<svg onload=alert(1)>") is None
    assert thumbnail(b"\x89PNG\r\n\x1a\n" + b"\0" * 40) is None


def test_long_and_odd_texts_are_cut_and_cleaned() -> None:
    assert shorten("a\x00b\u202e\ud800\n") == "a\ufffdb\ufffd?\n"
    assert len(shorten("x" * 10**6)) < 500
    assert row(["a|b", "c\nd", "<i>", "\\|"]) == "| a\\|b | c d | &lt;i> | \\\\\\| |"


def test_labels_are_as_short_as_tells_runs_apart() -> None:
    assert runs.labels([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert runs.labels([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]


def test_the_command_writes_what_it_is_asked_for(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [str(folder) for folder in folders]
    files = [tmp_path / name for name in ("page.html", "page.md", "scores.json")]
    options = [
        text for pair in zip(("--html", "--markdown", "--scores"), map(str, files), strict=True) for text in pair
    ]
    assert main(["eval", "report", *told, *options]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in files]
    scores = json.loads(files[2].read_text())
    assert list(scores) == ["weak<b>", "strong"]
    assert scores["strong"][NAMES[0]]["less_first"]["difference"] > 0
    assert main(["eval", "report", told[0]]) == 0
    assert capsys.readouterr().out.startswith("# Evaluation")


@pytest.mark.parametrize("broken", ["nothing", "twice", "result", "examples", "folder"])
def test_what_cannot_be_reported_is_refused(
    broken: str, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[1], copy)
    (copy / NAMES[0] / "result.json").write_text(
        "{" if broken == "result" else (copy / NAMES[0] / "result.json").read_text()
    )
    arguments = {
        "nothing": [str(tmp_path / "none")],
        "twice": [str(copy), f"{copy}/../copy"],
        "result": [str(copy)],
        "examples": [str(copy), "--examples", "-1"],
        "folder": [str(copy), "--markdown", str(tmp_path)],
    }[broken]
    words = {
        "nothing": "no finished evaluation in",
        "twice": "is named twice",
        "result": "is not what an evaluation writes",
        "examples": "--examples must be at least 0",
        "folder": "is no file but a folder or a device",
    }[broken]
    assert main(["eval", "report", *arguments, "--html", str(tmp_path / "page.html")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
