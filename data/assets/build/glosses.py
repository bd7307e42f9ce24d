"""Choose common words of WordNet and their first sense's gloss.

In: the unpacked WordNet package, the pictures' labels and titles. Out: the piece `text.tar.gz` with `glosses.jsonl`.
A gloss is text to learn language from, never ground truth for a picture: the first sense is often not the drawn one.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.assets.build.words import UNFIT
from data.assets.draws import bucket
from data.assets.pieces import write_piece

MAX_BYTES = 1_350_000
PARTS = ("noun", "verb", "adj", "adv")
VAL_PERCENT = 2


def read_counts(folder: Path) -> Counter[str]:
    """Return how often each lemma was met in WordNet's tagged texts."""
    counts: Counter[str] = Counter()
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        sense, _, count = line.split()
        counts[sense.split("%")[0]] += int(count)
    return counts


def clean_gloss(gloss: str) -> str:
    """Return the definition without examples and remarks in brackets; empty when what is left is odd."""
    text = re.sub(r"\([^()]*\)", " ", gloss.split('; "')[0])
    text = re.sub(r"\s+([,;.])", r"\1", " ".join(text.split())).strip(" ;,:")
    return text if 12 <= len(text) <= 150 and not re.search(r"[\"`()\[\]<>{}|]|--", text) else ""


def senses(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    """Yield lemma and cleaned gloss of each word's first sense; names of people and places are left out."""
    glosses, cased = {}, {}
    for line in (folder / f"data.{part}").read_text(encoding="ascii").splitlines():
        if line.startswith(" "):
            continue
        fields, gloss = line.split(" | ", 1)
        words = fields.split(" ")
        glosses[words[0]] = gloss
        cased[words[0]] = {words[4 + 2 * i].split("(")[0] for i in range(int(words[3], 16))}
    for line in (folder / f"index.{part}").read_text(encoding="ascii").splitlines():
        if line.startswith(" "):
            continue
        words = line.split()
        lemma, first = words[0], words[6 + int(words[3])]
        # The data files keep capitals: a lemma that is not there in lower case is a name.
        if lemma in cased[first] and re.fullmatch(r"[a-z]+([_-][a-z]+)*", lemma):
            yield lemma, clean_gloss(glosses[first])


def choose(folder: Path, wanted: set[str]) -> list[dict[str, str]]:
    """Return the glosses of the wanted words, then of the commonest, until MAX_BYTES of text are full."""
    counts = read_counts(folder)
    found = []
    for order, part in enumerate(PARTS):
        for lemma, gloss in senses(folder, part):
            label = lemma.replace("_", " ")
            if gloss and not UNFIT.search(label) and not UNFIT.search(gloss) and len(label) > 1:
                found.append((label not in wanted, -counts[lemma], label, order, gloss))
    rows, size = [], 0
    for is_extra, negative_count, label, _, gloss in sorted(found):
        size += len(label) + len(gloss) + 3
        if size > MAX_BYTES or (is_extra and not negative_count):
            break
        rows.append({"label": label, "gloss": gloss})
    return rows


def build_glosses(work: Path, assets: Path) -> None:
    wanted: set[str] = set()
    for name, field in (("emoji", "label"), ("clipart", "title")):
        for line in (assets / f"lists/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            text = json.loads(line)[field]
            wanted.update([text, *re.findall(r"[a-z]{3,}", text)])
    rows = choose(work / "wordnet/usr/share/wordnet", wanted)
    for row in rows:
        row["split"] = "val" if bucket(f"gloss/{row['label']}", 100) < VAL_PERCENT else "train"
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    write_piece(assets / "pieces/text.tar.gz", [("glosses.jsonl", text.encode())])
