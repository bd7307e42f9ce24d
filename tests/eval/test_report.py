import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.report import scores_html, scores_table, verdict, write_scores
from eval.score import Result

GOOD = Result(0.7512, 800, 0.7201, 0.7799, 0.25, 0.2625, 0.2610, 0.0)
TEXT_ONLY = Result(0.5, 8, 0.2152, 0.7848, 0.5, 0.5, None, 0.125, {"skipped": ["record '<b>': no content"]})
RESULTS = {"demo/unseen-style": GOOD, "text & co": TEXT_ONLY}


def test_the_table_shows_every_score_with_all_it_needs() -> None:
    lines = scores_table(RESULTS).splitlines()
    assert re.split(r"\s{2,}", lines[0]) == (
        ["task", "score", "±", "n", "95 % interval", "chance", "majority", "blind", "unparsed"]
    )
    shown = ["demo/unseen-style", "0.751", "±0.030", "800", "[0.720, 0.780]", "0.250", "0.263", "0.261", "0.0%"]
    assert [cell.strip() for cell in re.split(r"\s{2,}", lines[2])] == shown
    assert lines[3].split()[-3:] == ["0.500", "-", "12.5%"]
    assert lines[4] == "text & co: 1 bad record skipped: record '<b>': no content"
    assert len({len(line) for line in lines[:4]}) == 1


def test_what_a_score_is_and_what_was_cut_off_stands_below_the_table() -> None:
    details = {"headline": {"name": "points", "value": 2103.4, "scale": 2800.0}, "mean_over_questions": 0.8}
    lines = scores_table({"mme": replace(GOOD, details=details, truncated=3)}).splitlines()
    assert lines[3:] == [
        "mme: 3 answers were cut off at the length limit, and scored as they are",
        "mme: the score is points (2103.4 of 2800); mean over questions 0.800",
    ]


def test_scores_json_holds_the_eight_figures_and_nothing_else(tmp_path: Path) -> None:
    write_scores(tmp_path / "run" / "scores.json", RESULTS)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    names = ["score", "n", "low", "high", "chance", "majority", "blind", "unparsed"]
    assert {task: list(figures) for task, figures in scores.items()} == dict.fromkeys(RESULTS, names)
    assert scores["demo/unseen-style"]["score"] == 0.7512
    assert scores["text & co"]["blind"] is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["scores.json"]


def test_scores_that_cannot_be_written_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_scores(path, RESULTS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_scores(path, {"broken": Result(float("nan"), 1, 0.0, 1.0, 0.0, 0.0, None, 0.0)})
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["scores.json"]


class Balance(HTMLParser):
    """Open tags, closed in order; and every address that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_benchmark_of_several_parts_has_its_mean_below_the_table() -> None:
    parts = {"mmmu-pro/standard": replace(GOOD, score=0.25), "mmmu-pro/vision": replace(GOOD, score=0.5)}
    assert scores_table(parts).endswith("\nmmmu-pro: 0.375, the mean of mmmu-pro/standard and mmmu-pro/vision")
    assert "mmmu-pro: 0.375" not in scores_table({"mmmu-pro/vision": GOOD})


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no file"):
        write_scores(tmp_path / "pipe", {})
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_html_is_well_formed_escaped_and_asks_for_nothing_outside() -> None:
    html = scores_html(RESULTS)
    parser = Balance()
    parser.feed(html)
    assert (parser.open, parser.addresses) == ([], [])
    assert "text &amp; co" in html
    assert "<b>&#x27;: no content" not in html
    assert "record &#x27;&lt;b&gt;&#x27;" in html
    assert "url(" not in html


@pytest.mark.parametrize(
    ("low", "high", "blind", "expected"),
    [(0.3, 0.4, 0.28, "good"), (0.3, 0.4, 0.35, "plain"), (0.1, 0.2, None, "poor"), (0.2, 0.3, None, "plain")],
)
def test_a_score_is_good_only_above_everything_that_needs_no_picture(
    low: float, high: float, blind: float | None, expected: str
) -> None:
    assert verdict(Result((low + high) / 2, 100, low, high, 0.25, 0.26, blind, 0.0)) == expected
