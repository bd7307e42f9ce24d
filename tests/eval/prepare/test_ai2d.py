import json
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    """Diagram 0 has a question about its labels and one about itself; diagram 1 is no test diagram."""
    labelled = {
        "abcLabel": True,
        "answerTexts": ["ears", "nose", "mouth", "face"],
        "correctAnswer": 3,
        "questionId": "0.png-0",
    }
    plain = {"abcLabel": False, "answerTexts": ["cat", "dog"], "correctAnswer": 0, "questionId": "0.png-1"}
    questions = {"What is A?": labelled, "Which animal?": plain}
    bench.write("ai2d/questions/0.png.json", json.dumps({"imageName": "0.png", "questions": questions}))
    bench.write("ai2d/questions/1.png.json", json.dumps({"imageName": "1.png", "questions": questions}))
    bench.write("ai2d/images/0.png", picture(0))
    bench.write("ai2d/abcImages/0.png", picture(1))
    bench.write("ai2d_test_ids.csv", "0\n7\n")
    return bench


def test_masked_diagrams_are_shown_where_labels_are_asked_for(release: Any, shown: Callable[..., str]) -> None:
    masked, drawn = release.prepare("ai2d/masked"), release.prepare("ai2d/no-mask")
    assert {name: shown(question) for name, question in masked.items()} == {
        "0.png-0": "[1]What is A?",
        "0.png-1": "[0]Which animal?",
    }
    assert shown(drawn["0.png-0"]) == "[0]What is A?"
    assert (masked["0.png-0"].choices, masked["0.png-0"].answer) == (("ears", "nose", "mouth", "face"), 3)


def test_a_leading_letter_is_read_and_nothing_else(release: Any, shown: Callable[..., str]) -> None:
    release.prepare("ai2d/masked")
    result, model = release.ask("ai2d/masked", {"0.png-0": "D. face", "0.png-1": "It is A"})
    assert (result.score, result.unparsed, result.n) == (0.5, 0.5, 2)
    assert result.chance == (1 / 4 + 1 / 2) / 2
    assert shown(model.asked["0.png-0"]) == (
        "[1]What is A?\nA. ears\nB. nose\nC. mouth\nD. face\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_parquet_files_are_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    row = {"question": "Which?", "options": ["a", "b"], "answer": "1", "image": {"bytes": picture(3), "path": None}}
    bench.parquet("data/test-00000-of-00001.parquet", [row])
    assert bench.prepare("ai2d/masked")["0"].truth == "b"


def test_a_release_without_its_list_of_test_diagrams_is_refused(release: Any) -> None:
    (release.release / "ai2d_test_ids.csv").unlink()
    with pytest.raises(ValueError, match=r"has no ai2d_test_ids.csv .*needed: questions/.*there: ai2d/"):
        release.prepare("ai2d/masked")
