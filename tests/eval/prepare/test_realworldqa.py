import json
from collections.abc import Callable
from typing import Any

LETTER = "Where is it?\n\nA. Left\nB. Right\nC. Ahead\nPlease answer directly with only the letter of the correct option and nothing else."
WORD = "How many cars are there?\nPlease answer directly with a single word or number."


def test_options_and_instruction_are_cut_off_and_come_back_with_the_prompt(
    bench: Any, picture: Callable[..., bytes], shown: Callable[..., str]
) -> None:
    rows = [
        {"image": {"bytes": picture(number, "WEBP"), "path": "x.webp"}, "question": text, "answer": answer}
        for number, text, answer in ((0, LETTER, "B"), (1, WORD, "2"), (2, WORD, "Stop sign"))
    ]
    bench.parquet("data/test-00000-of-00002.parquet", rows)
    found = bench.prepare("realworldqa")
    assert (found["0"].choices, found["0"].answer) == (("Left", "Right", "Ahead"), 1)
    assert found["1"].answers == ("2",)
    said = {"0": "B. Right", "1": "3", "2": "stop sign."}
    result, model = bench.ask("realworldqa", said, prompt="official")
    assert (result.score, result.unparsed) == (2 / 3, 0)
    assert shown(model.asked["0"]) == f"[0]{LETTER}"
    assert shown(model.asked["1"]) == f"[1]{WORD}"
    _, model = bench.ask("realworldqa", said)
    assert shown(model.asked["2"]) == "[2]How many cars are there?\nAnswer the question using a single word or phrase."


def test_a_folder_of_pictures_is_a_release_too(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.write("realworldqa/annotations.json", json.dumps([{"image": "0.webp", "question": LETTER, "answer": "A"}]))
    bench.write("realworldqa/images/0.webp", picture(0, "WEBP"))
    assert bench.prepare("realworldqa")["0"].truth == "Left"
