import json
from collections.abc import Callable
from typing import Any


def row(number: int, **fields: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "pid": str(number),
        "question": "How much?",
        "image": f"images/{number}.jpg",
        "choices": None,
    }
    told |= {"unit": None, "precision": None, "answer": "3", "question_type": "free_form", "answer_type": "integer"}
    return told | {"metadata": {"task": "figure question answering"}, "query": "..."} | fields


ROWS = [
    row(1),
    row(2, answer="1.2", answer_type="float", precision=1.0, unit="m"),
    row(3, answer="no", question_type="multi_choice", answer_type="text", choices=["yes", "no"]),
    row(4, answer="[1, 2]", answer_type="list"),
]
SAID = {"1": "There are 3.", "2": "It is 1.24 m", "3": "(B)", "4": "I cannot tell"}


def test_answers_are_extracted_by_rules_and_compared_in_the_form_of_the_right_one(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    rows = [told | {"decoded_image": {"bytes": picture(int(told["pid"]), "JPEG"), "path": None}} for told in ROWS]
    bench.parquet("data/testmini-00000-of-00001.parquet", rows)
    bench.prepare("mathvista/testmini")
    result, model = bench.ask("mathvista/testmini", SAID)
    assert (result.score, result.unparsed) == (3 / 4, 1 / 4)
    assert (result.details["extraction"], result.details["extracted"]) == ("by rules", 3)
    assert shown(model.asked["2"]) == (
        "[2]Hint: Please answer the question requiring a floating-point number with one decimal place and provide the final "
        "value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: How much? (Unit: m)"
    )
    assert shown(model.asked["3"]) == (
        "[3]Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
        "Question: How much?\nChoices:\n(A) yes\n(B) no"
    )


def test_a_folder_of_pictures_is_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.write("testmini.json", json.dumps({told["pid"]: told for told in ROWS}))
    for told in ROWS:
        bench.write(told["image"], picture(int(told["pid"]), "JPEG"))
    bench.prepare("mathvista/testmini")
    assert bench.ask("mathvista/testmini", SAID)[0].score == 3 / 4
