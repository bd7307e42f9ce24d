"""Choose, draw and split the clip art: public domain files with an English title that says what is drawn.

In: the unpacked openclipart and WordNet packages. Out: `lists/clipart.jsonl` and the pieces `clipart-*.tar.gz`.
"""

import html
import re
from collections import Counter
from pathlib import Path

from data.assets.build.pictures import CLIPART_PX, clipart_webp, fit_square, near_duplicates, render_content, thumbnail
from data.assets.build.words import UNFIT, is_english, read_lexicon
from data.assets.draws import bucket
from data.assets.pieces import write_jsonl, write_piece

# Icon themes, abstract shapes and signs, map symbols, weapons, religion, logos: titles there do not describe a picture.
DROPPED_FOLDERS = (
    "buttons",
    "computer/buttons",
    "computer/diagrams",
    "computer/folders",
    "computer/icons",
    "decorations",
    "geography/flags",
    "logos",
    "people/stickmen",
    "recreation/religion",
    "shapes",
    "signs_and_symbols/flags",
    "signs_and_symbols/led",
    "signs_and_symbols/map_symbols",
    "special",
    "tools/weapons",
    "transportation/aiga-symbols",
    "unsorted",
)
MAX_SAME_TITLE = 12  # more pictures than that under one title is a collection's name
# Titles of collections, and foreign or odd ones that the English filter lets through.
COLLECTIONS = re.compile(
    r"^card$|maps?$|advertising|symbols$|illustration|connectors|road signs|pieces$|yoga|^dino$|switch|^ras$"
    r"|\b(rana|leone|cymru|olivier|lente|dente|glace|pimp|copper|galicia|sortie|cartes|font)\b"
    r"|youngster|grandpa|self portrait|^(fe)?male\b|^three eyes"
)
PIECES = 3


def field(text: str, name: str) -> str:
    """Return the first `dc:NAME` of an SVG's metadata, in one line."""
    found = re.search(rf"<cc:Work.*?<dc:{name}>(.*?)</dc:{name}>", text, re.DOTALL)
    return " ".join(html.unescape(found.group(1)).split()) if found else ""


def clean_title(title: str) -> str:
    """Return the title without numbering and underscores, lower case."""
    title = re.sub(r"[_/]+", " ", title).lower()
    title = re.sub(
        r"^clip ?art by nicu buculei( - )?|\b(color|bw)\b|hand drawn| - (body part|clothing)|-? ?remix$", " ", title
    )
    title = re.sub(r"^(etiquette|sung -|cartoon) | \b0\d+\b| drawn with straight lines", " ", title)
    title = re.sub(r"\(.*?\)|[\"*#~]", " ", title)
    title = re.sub(r"[\s.,;:!-]*(\b(v|no|nr|version|r))?\.?\s*\d+[a-z]?\s*$", "", title)
    return " ".join(title.split()).strip(" .,;:-")


def clean_description(text: str, title: str, lexicon: frozenset[str]) -> str:
    """Return the first sentence when it is a description, else the empty string."""
    sentence = re.split(r"(?<=[.!?])\s", re.sub(r"<.*?>", " ", text).strip())[0].strip()
    if not 15 <= len(sentence) <= 140 or not sentence.isascii() or UNFIT.search(sentence):
        return ""
    if clean_title(sentence) == title or len(sentence.split()) < 4 or not is_english(sentence, lexicon, 0.8):
        return ""
    hints = r"\b(I|my|me|you|your|we|based on|vectori[sz]\w+|autotraced|image of|drawn by"
    hints += r"|made (by|with|for|in)|created|original|author|artist|enjoy it|file)\b"
    if re.search(hints, sentence):
        return ""
    return sentence[0].upper() + sentence[1:] + ("" if sentence[-1] in ".!?" else ".")


def is_public_domain(text: str) -> bool:
    return "PublicDomain" in text and not re.search(r"\bGPL\b|gnu\.org/licenses|creativecommons.org/licenses", text)


def candidates(root: Path, lexicon: frozenset[str]) -> list[dict[str, str]]:
    """Return the files worth drawing, with title and description, in a fixed order."""
    chosen = []
    for file in sorted(root.rglob("*.svg")):
        place = file.relative_to(root).as_posix()
        if file.is_symlink() or any(place.startswith(f"{folder}/") for folder in DROPPED_FOLDERS):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        title = clean_title(field(text, "title"))
        if not is_public_domain(text) or not 3 <= len(title) <= 48 or not title.isascii() or UNFIT.search(title):
            continue
        if not is_english(title, lexicon) or len(title.split()) > 7 or COLLECTIONS.search(title):
            continue
        description = clean_description(field(text, "description"), title, lexicon)
        chosen.append({"file": place, "title": title, "description": description})
    count = Counter(row["title"] for row in chosen)
    return [row for row in chosen if count[row["title"]] <= MAX_SAME_TITLE]


def draw(root: Path, rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """Draw each file; drop the broken, the empty and the ones that look like an earlier one."""
    kept: list[dict[str, str]] = []
    pictures: dict[str, bytes] = {}
    seen: set[bytes] = set()
    for row in rows:
        try:
            picture = render_content((root / row["file"]).read_bytes(), CLIPART_PX)
        except ValueError:
            continue
        if min(picture.size) < 10:
            continue
        data = clipart_webp(fit_square(picture, CLIPART_PX))
        look = (thumbnail(data) // 8).tobytes()
        if look in seen or thumbnail(data).min() > 245:
            continue
        seen.add(look)
        key = f"c{len(kept):04d}"
        kept.append({"key": key, **row})
        pictures[key] = data
    return kept, pictures


def split_of(title: str) -> str:
    """Split by the title's last word, the head of an English noun phrase, so that no title is on both sides."""
    place = bucket(f"clipart/{title.split()[-1]}", 100)
    return "test" if place < 20 else "val" if place < 28 else "train"


def build_clipart(work: Path, assets: Path) -> None:
    root = work / "openclipart/usr/share/openclipart/svg"
    lexicon = read_lexicon(work / "wordnet/usr/share/wordnet")
    rows, pictures = draw(root, candidates(root, lexicon))
    for row in rows:
        row["split"] = split_of(row["title"])
    train = [pictures[row["key"]] for row in rows if row["split"] == "train"]
    others = [row for row in rows if row["split"] != "train"]
    copies = near_duplicates([pictures[row["key"]] for row in others], train)
    dropped = {row["key"] for row, is_copy in zip(others, copies, strict=True) if is_copy}
    rows = [row for row in rows if row["key"] not in dropped]
    write_jsonl(assets / "lists/clipart.jsonl", rows)
    for part in range(PIECES):
        members = [(f"{row['key']}.webp", pictures[row["key"]]) for row in rows[part::PIECES]]
        write_piece(assets / f"pieces/clipart-{part}.tar.gz", members)
