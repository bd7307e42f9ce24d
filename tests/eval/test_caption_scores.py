import math
import shutil
import stat
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from eval.caption_scores import caption_scores, tokenize_plain, tokenize_ptb

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java here")

CAPTIONS = {"1": "A man rides a horse.", "2": "two dogs play, with a frisbee!", "3": "a red bus"}
REFERENCES = {
    "1": ["a person rides a horse on a beach", "A man is on a horse."],
    "2": ["Dogs playing frisbee", "two dogs jump at a frisbee", "a dog"],
    "3": ["a red bus", "A bus parked"],
}


def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def cider_by_definition(said: dict[str, list[str]], right: dict[str, list[str]]) -> float:
    """CIDEr-D of arXiv 1411.5726, eq. 2-5: tf-idf vectors, clipped, with a penalty for length, times 10."""
    total = 0.0
    for n in range(1, 5):
        seen: Counter[tuple[str, ...]] = Counter()
        for references in right.values():
            seen.update({gram for reference in references for gram in grams(reference, n)})

        def weigh(counts: Counter[tuple[str, ...]], seen: Any = seen) -> dict[tuple[str, ...], float]:
            return {g: c * (math.log(len(right)) - math.log(max(1.0, seen[g]))) for g, c in counts.items()}

        for name, (caption,) in said.items():
            mine = weigh(grams(caption, n))
            for reference in right[name]:
                theirs = defaultdict(float, weigh(grams(reference, n)))
                shared = sum(min(weight, theirs[g]) * theirs[g] for g, weight in mine.items())
                norm = math.sqrt(sum(w * w for w in mine.values())) * math.sqrt(sum(w * w for w in theirs.values()))
                apart = (len(caption.split()) - 1) - (len(reference.split()) - 1)
                close = shared / norm * math.exp(-(apart**2) / 72) if norm else 0.0
                total += close / len(right[name])
    return 10 * total / 4 / len(said)


def test_cider_is_that_of_its_definition() -> None:
    said = tokenize_plain({name: [caption] for name, caption in CAPTIONS.items()})
    found = caption_scores(CAPTIONS, REFERENCES, metrics=["CIDEr"], tokenizer="plain")
    assert found["CIDEr"] == pytest.approx(cider_by_definition(said, tokenize_plain(REFERENCES)), rel=1e-9)


def test_bleu_counts_over_the_set_and_takes_the_closest_length() -> None:
    found = caption_scores({"1": "a b c", "2": "a x"}, {"1": ["a b c d"], "2": ["y", "a y z"]}, ["BLEU"], "plain")
    # 4 of 5 words match; of two references as near, the shorter's length counts: 5 words against 4 + 1.
    assert found["BLEU-1"] == pytest.approx(4 / 5, abs=1e-6)


def test_rouge_weighs_recall_and_takes_the_best_of_each() -> None:
    found = caption_scores({"1": "a b c"}, {"1": ["a b x y"]}, ["ROUGE-L"], "plain")
    precision, recall, square = 2 / 3, 2 / 4, 1.2**2
    assert found["ROUGE-L"] == pytest.approx((1 + square) * precision * recall / (recall + square * precision))


def test_cider_of_one_picture_alone_is_0() -> None:
    assert caption_scores({"1": "a man"}, {"1": ["a man"]}, ["CIDEr"], "plain")["CIDEr"] == 0.0


def test_the_result_names_its_tokenizer_and_its_size() -> None:
    found = caption_scores(CAPTIONS, REFERENCES, tokenizer="plain")
    assert (found["tokenizer"], found["n"]) == ("plain", 3)
    assert list(found["by_caption"]) == ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]
    assert {len(scores) for scores in found["by_caption"].values()} == {3}


@pytest.mark.long
@needs_java
def test_our_call_of_the_treebank_tokenizer_gives_what_the_packages_own_gives() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = {
        "1": ['A "red" bus (no. 5) at 10:30, isn\'t it? \u2013 café people\u2019s', "", "u.s.a. t-shirt & $5.50 ..."],
        "2": ["two\nlines", "   ", "中文 o'clock"],
    }
    wanted = PTBTokenizer().tokenize({name: [{"caption": text} for text in some] for name, some in texts.items()})
    assert tokenize_ptb(texts) == wanted


@pytest.mark.long
@needs_java
def test_the_python_tokenizer_agrees_with_the_treebanks_on_plain_captions() -> None:
    texts = {
        "1": [
            "A man's dog isn't on the t-shirt, is it?",
            "Three people at 10:30, by St. Mary (red) bus!",
            "they're 2.5 m from a \u201cstop\u201d sign.",
        ]
    }
    assert tokenize_plain(texts) == tokenize_ptb(texts)


@pytest.mark.slow
@needs_java
def test_meteor_is_computed_where_java_is() -> None:
    found = caption_scores(CAPTIONS, REFERENCES, metrics=["METEOR"])
    assert 0 < found["METEOR"] < 1
    assert found["by_caption"]["METEOR"][2] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("how", [{}, {"metrics": ["METEOR"], "tokenizer": "plain"}])
def test_without_java_the_error_says_what_to_install(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"needs Java.*default-jre-headless"):
        caption_scores(CAPTIONS, REFERENCES, **how)


def test_a_java_that_fails_is_an_error_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho out of memory >&2\nexit 1\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ValueError, match="out of memory"):
        tokenize_ptb(REFERENCES)


@pytest.mark.parametrize(
    ("captions", "references", "metrics", "named"),
    [
        ({}, {}, ["CIDEr"], "no captions"),
        ({"1": "a"}, {"2": ["a"]}, ["CIDEr"], "same pictures; 2 are not, like '1'"),
        ({"1": "a"}, {"1": []}, ["CIDEr"], "'1' has no reference"),
        ({"1": "a"}, {"1": ["a"]}, ["SPICE"], "'SPICE'; known: CIDEr, BLEU"),
    ],
)
def test_what_cannot_be_scored_is_an_error(
    captions: dict[str, str], references: dict[str, list[str]], metrics: list[str], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        caption_scores(captions, references, metrics, "plain")
