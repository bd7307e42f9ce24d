import json
from collections.abc import Callable
from typing import Any

import pytest


def row(category: str, figure: str, number: str, answer: str, file: str | None) -> dict[str, Any]:
    told = {"category": category, "subcategory": "chart", "visual_input": "0" if file is None else "1", "set_id": "0"}
    told |= {"figure_id": figure, "question_id": number, "question": f"Is it {number}?", "gt_answer": answer}
    return told | {"gt_answer_details": "", "filename": file}  # type: ignore[dict-item]


ROWS = [
    row("VS", "0", "0", "1", None),
    row("VS", "0", "1", "0", None),
    row("VS", "1", "0", "1", "./hallusion_bench/VS/chart/0_1.png"),
    row("VS", "1", "1", "1", "./hallusion_bench/VS/chart/0_1.png"),
]
SAID = {"VS_chart_0_0_0": "Yes", "VS_chart_0_0_1": "yes", "VS_chart_0_1_0": "Yes, it is.", "VS_chart_0_1_1": "unsure"}


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    bench.write("HallusionBench.json", json.dumps(ROWS))
    bench.write("hallusion_bench/VS/chart/0_1.png", picture(3))
    return bench


def test_questions_and_figures_are_right_as_a_whole(release: Any, shown: Callable[..., str]) -> None:
    assert len(release.prepare("hallusionbench/all")) == 4
    result, model = release.ask("hallusionbench/all", SAID)
    assert result.score == 0.5
    # Question 0 is right on both figures, question 1 on none; of the figures only the one with a picture counts.
    assert result.details["hallusionbench"] == {"aAcc": 0.5, "qAcc": 0.5, "fAcc": 0.0}
    assert result.unparsed == 0.25
    assert shown(model.asked["VS_chart_0_1_0"]) == "[3]Is it 0?\nPlease answer yes or no."
    assert shown(model.asked["VS_chart_0_0_0"]) == "Is it 0?\nPlease answer yes or no."


def test_image_leaves_out_what_has_no_picture(release: Any) -> None:
    assert list(release.prepare("hallusionbench/image")) == ["VS_chart_0_1_0", "VS_chart_0_1_1"]
    result, _ = release.ask("hallusionbench/image", SAID)
    assert result.details["hallusionbench"] == {"aAcc": 0.5, "qAcc": 0.5, "fAcc": 0.0}


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    shown = [one | {"image": {"bytes": picture(1), "path": None}} for one in ROWS[2:]]
    bench.parquet("data/image-00000-of-00001.parquet", shown)
    assert len(bench.prepare("hallusionbench/image")) == 2
    with pytest.raises(ValueError, match="has no data/non_image-"):
        bench.prepare("hallusionbench/all")
    bench.parquet("data/non_image-00000-of-00001.parquet", ROWS[:2])
    assert len(bench.prepare("hallusionbench/all")) == 4
