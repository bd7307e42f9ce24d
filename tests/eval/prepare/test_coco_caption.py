import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

TEXTS = {
    42: ["A dog runs on grass.", "The dog is running."],
    73: ["A red car on a road.", "A car drives by."],
    74: ["Two people eat pizza.", "People at a table."],
}
SAID = {"42": "a dog is running", "73": "A red car.", "74": "nothing to see"}


@pytest.fixture
def release(bench: Any, picture: Callable[..., bytes]) -> Any:
    rows = [
        {"filepath": "val2014", "filename": f"COCO_val2014_{number:012d}.jpg", "split": "test", "cocoid": number}
        | {"sentences": [{"raw": text, "tokens": text.lower().split()} for text in texts]}
        for number, texts in TEXTS.items()
    ]
    rows.append(rows[0] | {"split": "train", "cocoid": 99, "filepath": "train2014"})
    bench.write("caption_datasets/dataset_coco.json", json.dumps({"images": rows, "dataset": "coco"}))
    for number in TEXTS:
        bench.write(f"val2014/COCO_val2014_{number:012d}.jpg", picture(number - 42, "JPEG"))
    return bench


def cider_d(said: str, right: list[str], everything: list[list[str]]) -> float:
    """CIDEr-D of one caption (arXiv 1411.5726), from the formulas."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = text.lower().replace(".", "").split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    total = 0.0
    for n in range(1, 5):
        seen = Counter(gram for texts in everything for gram in {gram for text in texts for gram in grams(text, n)})

        def weigh(text: str, n: int = n, seen: Counter[tuple[str, ...]] = seen) -> dict[tuple[str, ...], float]:
            return {
                gram: count * (math.log(len(everything)) - math.log(max(1, seen[gram])))
                for gram, count in grams(text, n).items()
            }

        mine = weigh(said)
        for text in right:
            other = weigh(text)
            length = len(said.replace(".", "").split()) - len(text.replace(".", "").split())
            top = sum(min(value, other.get(gram, 0)) * other.get(gram, 0) for gram, value in mine.items())
            norms = math.hypot(*mine.values()) * math.hypot(*other.values())
            total += (top / norms if norms else 0) * math.exp(-(length**2) / 72) / len(right) / 4
    return 10 * total


def test_the_score_is_cider_over_the_whole_set(release: Any, shown: Callable[..., str]) -> None:
    pytest.importorskip("pycocoevalcap")
    assert list(release.prepare("coco-caption/karpathy")) == ["42", "73", "74"]
    result, model = release.ask("coco-caption/karpathy", SAID)
    each = [cider_d(SAID[str(number)], texts, list(TEXTS.values())) for number, texts in TEXTS.items()]
    assert result.score == pytest.approx(sum(each) / 3 / 10)
    headline = result.details["headline"]
    assert headline == {
        "name": "CIDEr-D x 100, tokenizer plain",
        "value": pytest.approx(100 * sum(each) / 3),
        "scale": 1000,
    }
    figures = result.details["captions"]["overall"]
    assert (figures["CIDEr"], figures["tokenizer"], figures["n"]) == (pytest.approx(sum(each) / 3), "plain", 3)
    assert {"BLEU-4", "ROUGE-L"} < set(figures)
    assert "METEOR" not in figures
    assert result.low <= result.score <= result.high
    assert result.chance == result.majority < result.score
    assert shown(model.asked["73"]) == "[31]Provide a one-sentence caption for the provided image."


def test_an_unparsed_caption_is_an_empty_one(release: Any) -> None:
    pytest.importorskip("pycocoevalcap")
    release.prepare("coco-caption/karpathy")
    result, _ = release.ask("coco-caption/karpathy", dict.fromkeys(SAID, " "))
    assert (result.score, result.unparsed) == (0, 1)


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java here")
@pytest.mark.long
def test_stanfords_tokenizer_is_asked_for_by_name_and_brings_meteor(
    release: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycocoevalcap")
    release.prepare("coco-caption/karpathy")
    plain, _ = release.ask("coco-caption/karpathy", SAID)
    monkeypatch.setenv("CONCEPTVLM_CAPTION_TOKENIZER", "ptb")
    result, _ = release.ask("coco-caption/karpathy", SAID)
    assert result.details["captions"]["overall"]["tokenizer"] == "ptb"
    assert 0 < result.details["captions"]["overall"]["METEOR"] < 1
    assert result.score == pytest.approx(plain.score)


def test_what_could_not_be_scored_is_said_before_the_model_writes(
    release: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.prepare("coco-caption/karpathy")
    monkeypatch.setenv("CONCEPTVLM_CAPTION_TOKENIZER", "nltk")
    with pytest.raises(ValueError, match="CONCEPTVLM_CAPTION_TOKENIZER is 'nltk'; it must be plain"):
        release.ask("coco-caption/karpathy", {})
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("CONCEPTVLM_CAPTION_TOKENIZER", "ptb")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="needs Java, and there is no `java`"):
        release.ask("coco-caption/karpathy", {})
    assert not (release.out / "coco-caption/karpathy/predictions.jsonl").exists()
