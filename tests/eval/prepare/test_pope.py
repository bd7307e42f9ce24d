import json
from collections.abc import Callable
from typing import Any

import pytest

KINDS = ("random", "popular", "adversarial")


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    """In each category two pictures with a yes and a no each."""
    for kind in KINDS:
        rows = [
            {"question_id": number, "image": f"COCO_val2014_{310 + number // 3:012d}.jpg"}
            | {"text": f"Is there a {thing} in the image?", "label": label}
            for number, (thing, label) in enumerate(
                [("dog", "yes"), ("cat", "no"), ("car", "yes"), ("bus", "no")], start=1
            )
        ]
        bench.write(f"output/coco/coco_pope_{kind}.json", "\n".join(map(json.dumps, rows)))
    for number in (310, 311):
        bench.write(f"val2014/COCO_val2014_{number:012d}.jpg", picture(number - 310, "JPEG"))
    return bench


def test_the_score_is_the_mean_f1_of_the_categories(release: Any, shown: Callable[..., str]) -> None:
    found = release.prepare("pope")
    assert list(found)[:2] == ["random-1", "random-2"]
    assert found["popular-3"].group == "COCO_val2014_000000000311"
    said = {f"random-{n}": text for n, text in enumerate(("Yes", "No", "yes, a car", "no."), start=1)}
    said |= {f"popular-{n}": "Yes." for n in range(1, 5)}
    said |= {f"adversarial-{n}": text for n, text in enumerate(("", "NO", "There is not", "No"), start=1)}
    result, model = release.ask("pope", said, prompt="official")
    # F1: random 1; popular 2 of 4 yeses right: 2*2/(4+2); adversarial: "" and "NO" are yes, one of them right: 2*1/(2+2).
    assert result.score == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert result.details["mean_over_questions"] == pytest.approx((4 + 2 + 2) / 12)
    figures = result.details["pope"]
    assert figures["mean_f1"] == pytest.approx(result.score)
    assert figures["by_category"]["popular"]["precision"] == 0.5
    assert figures["by_category"]["popular"]["yes_rate"] == 1
    assert figures["accuracy"] == pytest.approx(8 / 12)
    assert result.unparsed == 0
    assert shown(model.asked["random-1"]) == "[0]Is there a dog in the image?"


def test_half_of_the_files_is_no_release(release: Any) -> None:
    (release.release / "output/coco/coco_pope_popular.json").unlink()
    with pytest.raises(ValueError, match=r"has coco_pope_random\.json but no coco_pope_popular\.json beside it"):
        release.prepare("pope")


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    rows = [
        {"id": str(n), "question_id": str(n), "question": "Is there a dog in the image?", "answer": "yes"}
        | {"image_source": "COCO_val2014_000000310196", "image": {"bytes": picture(1), "path": None}, "category": kind}
        for n, kind in enumerate(KINDS)
    ]
    bench.parquet("data/test-00000-of-00003.parquet", rows)
    assert list(bench.prepare("pope")) == ["random-0", "popular-1", "adversarial-2"]
    result, _ = bench.ask("pope", {"random-0": "yes", "popular-1": "yes", "adversarial-2": "no"})
    assert result.score == pytest.approx(2 / 3)
