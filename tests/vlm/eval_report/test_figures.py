"""The figures that a benchmark reports beside its score, on the page and in the tables."""

from pathlib import Path

from eval.score import Result
from vlm.eval_report.figures import own_figures
from vlm.eval_report.page import draw_figures
from vlm.eval_report.runs import Run, TaskRun
from vlm.eval_report.scores import markdown

PLAIN = {"mode": "generate", "rule": "x", "interval": "y", "prompt_hash": "z", "seconds": 1.0, "ties": 0, "skipped": []}


def result(**details: object) -> Result:
    return Result(0.5, 10, 0.4, 0.6, 0.1, 0.1, None, 0.0, {**PLAIN, **details})


def test_figures_are_named_by_their_path_and_shown_as_what_they_are() -> None:
    found = own_figures(
        result(
            headline={"name": "perception + cognition", "value": 1400.0, "scale": 2800.0},
            mean_over_questions=0.55,
            mme={"by_task": {"OCR": {"accuracy": 0.5, "score": 75.0}}, "perception": 1000.25},
            bits_per_byte=1.23456,
            bytes=123456,
            tokenizer="plain",
            by_category={"ocr<b>": {"score": 1 / 3, "n": 3000}},
            captions=["not", "shown"],
            ties=2,
        )
    )
    assert found == {
        "perception + cognition": "1,400.0 of 2800",
        "mean over questions": "0.550",
        "mme / by task / OCR / accuracy": "0.500",
        "mme / by task / OCR / score": "75.000",
        "mme / perception": "1,000.2",
        "bits per byte": "1.235",
        "bytes": "123,456",
        "tokenizer": "plain",
        "ties": "2",
        "category ocr<b>": "0.333 (n 3,000)",
    }


def test_a_plain_score_has_none() -> None:
    assert own_figures(result()) == {}
    assert draw_figures([Run("a", Path("a"), {"t": TaskRun(result())})]) == ""


def test_runs_stand_side_by_side_and_what_one_lacks_is_left_open() -> None:
    runs = [
        Run("a<b>", Path("a"), {"t": TaskRun(result(bits_per_byte=1.0, f1=0.25))}),
        Run("c", Path("c"), {"t": TaskRun(result(bits_per_byte=2.0))}),
        Run("d", Path("d"), {"other": TaskRun(result())}),
    ]
    page, table = draw_figures(runs), markdown(runs)
    assert "<tr><td>bits per byte</td><td>1.000</td><td>2.000</td></tr>" in page
    assert "<tr><td>f1</td><td>0.250</td><td>-</td></tr>" in page
    assert "a&lt;b&gt;" in page
    assert "| t | a&lt;b> | c |" in table
    assert "| bits per byte | 1.000 | 2.000 |" in table
