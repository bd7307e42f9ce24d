from collections.abc import Callable
from typing import Any

import pytest


def row(picture: Callable[..., bytes], task: str, number: int, pictures: int, answer: str) -> dict[str, Any]:
    shown = {
        f"image_{place}": {"bytes": picture(10 * number + place), "path": None} for place in range(1, pictures + 1)
    }
    told = {"idx": f"val_{task}_{number}", "sub_task": task, "question": "Which one?", "choices": ["this", "that"]}
    told |= {f"image_{place}": None for place in range(1, 5)} | shown
    prompt = "The two circles mark points.\nWhich one? Select from the following choices.\n(A) this\n(B) that"
    return told | {"answer": answer, "explanation": "", "prompt": prompt}


def test_the_score_is_the_mean_over_subtasks(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    depth = [row(picture, "Relative_Depth", number, 1, "(A)") for number in (1, 2, 3)]
    bench.parquet("Relative_Depth/val-00000-of-00001.parquet", depth)
    bench.parquet("Jigsaw/val-00000-of-00001.parquet", [row(picture, "Jigsaw", 1, 3, "(B)")])
    bench.prepare("blink")
    said = {
        "val_Relative_Depth_1": "(A)",
        "val_Relative_Depth_2": "B",
        "val_Relative_Depth_3": "",
        "val_Jigsaw_1": "(B) that",
    }
    result, model = bench.ask("blink", said, prompt="official")
    assert result.score == pytest.approx((1 / 3 + 1) / 2)
    assert result.details["micro"] == result.details["mean_over_questions"] == 0.5
    assert (result.unparsed, result.chance) == (1 / 4, pytest.approx(0.5, abs=0.12))
    assert shown(model.asked["val_Jigsaw_1"]) == (
        "[11][12][13]The two circles mark points.\nWhich one?\nSelect from the following choices.\n(A) this\n(B) that"
    )


def test_hidden_answers_cannot_be_scored(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.parquet("Jigsaw/val-00000-of-00001.parquet", [row(picture, "Jigsaw", 1, 2, "hidden")])
    with pytest.raises(ValueError, match="the answer 'hidden' is none of 2 choices"):
        bench.prepare("blink")
