import json
from collections.abc import Callable
from typing import Any

import pytest

IMAGES = [
    {"id": number, "file_name": f"{number:04d}ab.jpg", "domain": domain, "width": 8, "height": 6}
    for number, domain in enumerate(
        ("in-domain", "in-domain", "near-domain", "near-domain", "out-domain", "out-domain")
    )
]
THINGS = ("dog", "car", "pizza", "kite", "lynx", "tuba")
SAID = {"0": "a dog", "1": "a car", "2": "a kite", "3": "a kite", "4": "a tuba", "5": "a lynx"}


def captions(number: int) -> list[dict[str, Any]]:
    texts = (f"a {THINGS[number]}", f"the {THINGS[number]} here")
    return [{"image_id": number, "id": 10 * number + place, "caption": text} for place, text in enumerate(texts)]


def test_each_domain_is_scored_by_its_own_references(bench: Any, picture: Callable[..., bytes]) -> None:
    pytest.importorskip("pycocoevalcap")
    from eval.caption_scores import caption_scores

    told = {"images": IMAGES, "annotations": [one for number in range(6) for one in captions(number)]}
    bench.write("nocaps_val_4500_captions.json", json.dumps(told))
    for image in IMAGES:
        bench.write(f"images/{image['file_name']}", picture(int(str(image["id"])), "JPEG"))
    assert bench.prepare("nocaps/val")["4"].meta == {"domain": "out-domain"}
    result, _ = bench.ask("nocaps/val", SAID)
    figures = result.details["captions"]
    assert list(figures) == ["overall", "in", "near", "out"]
    assert figures["out"]["CIDEr"] == 0  # "a" stands in all references and weighs nothing; the animals are wrong
    assert figures["in"]["CIDEr"] > figures["near"]["CIDEr"] > 0
    pairs = {"2": ["a pizza", "the pizza here"], "3": ["a kite", "the kite here"]}
    alone = caption_scores({"2": SAID["2"], "3": SAID["3"]}, pairs, tokenizer="plain")
    assert figures["near"]["CIDEr"] == alone["CIDEr"]
    assert figures["overall"]["n"] == 6


def test_a_picture_without_a_domain_or_a_caption_is_refused(bench: Any, picture: Callable[..., bytes]) -> None:
    bench.write("images/0000ab.jpg", picture(1, "JPEG"))
    bench.write("nocaps_val_4500_captions.json", json.dumps({"images": IMAGES[:1], "annotations": []}))
    with pytest.raises(ValueError, match="picture 0 has no caption"):
        bench.prepare("nocaps/val")
    told = {"images": [IMAGES[0] | {"domain": "far"}], "annotations": captions(0)}
    bench.write("nocaps_val_4500_captions.json", json.dumps(told))
    with pytest.raises(ValueError, match="picture 0 is of the domain 'far'; known: in-domain, near-domain, out-domain"):
        bench.prepare("nocaps/val")
