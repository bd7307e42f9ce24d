import base64
from collections.abc import Callable
from typing import Any

import pytest

from eval.prepare.mmstar import split_options


def row(number: int, picture: Callable[..., bytes], **fields: Any) -> dict[str, Any]:
    told = {
        "index": number,
        "question": "Which?\nOptions: A: up, B: down, left, C: right, D: none",
        "image": picture(number),
    }
    told |= {"answer": "B", "category": "math", "l2_category": "geometry", "meta_info": {"source": "x"}}
    return told | fields


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Q?\nOptions: A: a, B: b", "Q?", ("a", "b")),
        ("Q?\nOptions: A: 1, 2, B: 3, C: 4", "Q?", ("1, 2", "3", "4")),
        ("Q, Options: no\nOptions: A: x\nB: y", "Q, Options: no", ("x", "y")),
        ("Q?\nOptions: A: see D: that, B: y", "Q?", ("see D: that", "y")),
    ],
)
def test_options_are_cut_out_of_the_question(text: str, question: str, choices: tuple[str, ...]) -> None:
    assert split_options(text, "here") == (question, choices)


def test_options_that_cannot_be_told_apart_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"here: no options in 'Which\?'.*MMStar\.tsv"):
        split_options("Which?", "here")


def test_the_score_is_the_mean_over_axes(bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]) -> None:
    rows = [row(number, picture) for number in range(3)]
    bench.parquet("mmstar.parquet", [*rows, row(3, picture, category="science", l2_category="biology", answer="D")])
    found = bench.prepare("mmstar")
    assert found["0"].choices == ("up", "down, left", "right", "none")
    result, model = bench.ask("mmstar", {"0": "B", "1": "b. down", "2": "The answer is B", "3": "D"})
    assert result.score == pytest.approx((2 / 3 + 1) / 2)
    assert result.details["headline"]["name"] == "mean over 18 axes"
    assert result.details["by_category"]["math"] == {"score": pytest.approx(2 / 3), "n": 3}
    assert result.details["axes"]["average"] == pytest.approx(result.score)
    assert result.unparsed == 1 / 4
    assert shown(model.asked["3"]).startswith("[3]Which?\nA. up\nB. down, left\nC. right\nD. none\nAnswer with")


def test_a_table_is_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    image = base64.b64encode(picture(0)).decode()
    told = {
        "index": 0,
        "question": "Which?",
        "A": "a",
        "B": "b",
        "answer": "B",
        "category": "math",
        "l2_category": "geometry",
    }
    bench.table("MMStar.tsv", [told | {"image": image}])
    assert bench.prepare("mmstar")["0"].meta == {"l2": "geometry"}
