"""Join the emoji packages, split concepts into training and held out, and write the pictures.

In: the unpacked emoji packages. Out: `lists/emoji.jsonl` (one concept a line) and the pieces `emoji-*.tar.gz`.
"""

import io
import json
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from PIL import Image

from data.assets.build.pictures import EMOJI_PX, emoji_webp, fit_square, near_duplicates, render_svg
from data.assets.draws import bucket
from data.assets.pieces import write_jsonl, write_piece

HELD_OUT_PERCENT = 15
VAL_PERCENT = 5  # of the training concepts that have both styles, one of their pictures goes to validation
PIECES_PER_STYLE = 2
PEOPLE = frozenset(["man", "men", "woman", "women", "person", "persons", "people", "boy", "girl", "and", "with"])
SKIN = re.compile(r"\b(light|medium-light|medium|medium-dark|dark) skin tone\b")
# Variants whose labels differ by who stands where; vendors draw most of them as one silhouette.
DROPPED_LABEL = re.compile(
    r"^(family|kiss|couple with heart):|^regional indicator|skin tone|^(women|men|woman and man) holding"
)
CLOCK = re.compile(r"o’clock|-thirty$")
# Not in any test: a flag or a sign square is the same drawing for every vendor, and so are most clock faces.
NO_HEADLINE_GROUPS = frozenset({"symbols", "flags"})
# Subcategories said in words that a question can use; those not named here lose their prefix only.
SUBCATEGORIES = {
    "face-affection": "affectionate face",
    "face-costume": "costume face",
    "face-glasses": "face with glasses",
    "face-hand": "face with a hand",
    "face-hat": "face with a hat",
    "face-tongue": "face with its tongue out",
    "face-neutral-skeptical": "neutral or skeptical face",
    "monkey-face": "monkey face",
    "cat-face": "cat face",
    "body-parts": "body part",
    "hand-fingers-open": "open hand",
    "hand-fingers-closed": "closed hand",
    "hand-fingers-partial": "hand with some fingers out",
    "hand-single-finger": "hand with one finger out",
    "hand-prop": "hand holding a thing",
    "person-fantasy": "fantasy being",
    "person-gesture": "person making a gesture",
    "person-resting": "person at rest",
    "person-role": "person with a job or role",
    "person-activity": "person doing an activity",
    "person-sport": "person doing a sport",
    "person-symbol": "sign of a person",
    "plant-other": "plant",
    "food-prepared": "prepared food",
    "food-asian": "asian food",
    "food-sweet": "sweet food",
    "place-other": "place",
    "place-map": "map or place",
    "place-geographic": "landscape",
    "place-religious": "religious place",
    "place-building": "building",
    "transport-ground": "ground transport",
    "transport-air": "air transport",
    "transport-water": "water transport",
    "sky-weather": "sky and weather",
    "light-video": "light and video",
    "arts-crafts": "arts and crafts",
    "book-paper": "book or paper",
    "award-medal": "medal or award",
    "other-object": "other object",
    "country-flag": "flag of a country",
    "subdivision-flag": "flag of a region",
    "other-symbol": "other symbol",
    "av-symbol": "player button",
}


def subcategory_words(key: str) -> str:
    """Turn `animal-mammal` into `mammal`, `face-sleepy` into `sleepy face`, `hotel` into `hotel`."""
    if key in SUBCATEGORIES:
        return SUBCATEGORIES[key]
    if key.startswith("face-"):
        return f"{key[5:]} face"
    return re.sub(r"^(animal|food|plant|place|transport)-", "", key).replace("-", " ")


def family_of(label: str) -> str:
    """Strip who and which skin from a label: `woman farmer`, `man farmer` and `farmer` are one family."""
    plain = SKIN.sub(" ", label.lower())
    if plain.startswith("flag:"):
        return plain
    words = [word for word in re.findall(r"[\w’'.&-]+", plain) if word not in PEOPLE]
    return " ".join(words) or "person"


def read_concepts(work: Path) -> list[dict[str, Any]]:
    """Return the base emoji known to both datasets, in emojibase's order, without pictures and splits."""
    base = work / "emojibase/package/en"
    entries = json.loads((base / "data.json").read_text(encoding="utf-8"))
    messages = json.loads((base / "messages.json").read_text(encoding="utf-8"))
    groups = {row["order"]: row["message"].replace("&", "and") for row in messages["groups"]}
    subgroups = {row["order"]: row["key"] for row in messages["subgroups"]}
    concepts = []
    for entry in entries:
        group = groups.get(entry.get("group", -1), "components")
        if group == "components" or DROPPED_LABEL.search(entry["label"]):
            continue
        label = entry["label"].lower()
        concepts.append(
            {
                "key": entry["hexcode"].replace("-FE0F", "").lower(),
                "label": label,
                "tags": [tag.lower() for tag in entry.get("tags", []) if tag.lower() != label],
                "category": group,
                "subcategory": subcategory_words(subgroups[entry["subgroup"]]),
                "family": family_of(label),
                "headline": group not in NO_HEADLINE_GROUPS and not CLOCK.search(label),
            }
        )
    return concepts


def read_vendor(work: Path, style: str) -> dict[str, bytes]:
    """Return key -> WebP of one vendor's 64 px pictures."""
    package = work / style / "package"
    pictures = {}
    for entry in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        file = package / f"img/{style}/64" / entry["image"]
        if entry[f"has_img_{style}"] and file.exists():
            pictures[entry["unified"].replace("-FE0F", "").lower()] = emoji_webp(
                Image.open(io.BytesIO(file.read_bytes()))
            )
    return pictures


def read_fluent(work: Path, wanted: Container[str]) -> dict[str, bytes]:
    """Return key -> WebP of the Fluent flat drawings of the wanted keys."""
    package = work / "fluent/package"
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    names = json.loads((package / "chars.json").read_text(encoding="utf-8"))
    pictures = {}
    for code, name in sorted(names.items()):
        key = code.lower().replace("-fe0f", "")
        if key not in wanted or name not in icons["icons"]:
            continue
        icon = icons["icons"][name]
        width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        picture = fit_square(render_svg(svg.encode(), 4 * EMOJI_PX), EMOJI_PX)
        pictures[key] = emoji_webp(picture)
    return pictures


def assign(concepts: list[dict[str, Any]], pictures: dict[str, dict[str, bytes]]) -> list[dict[str, Any]]:
    """Say of each concept which style's picture serves where: `train`, `val` and `test` become lists of styles."""
    rows = []
    for concept in concepts:
        key = concept["key"]
        if key not in pictures["google"]:
            continue
        is_held_out = concept["headline"] and bucket(f"family/{concept['family']}", 100) < HELD_OUT_PERCENT
        train = [] if is_held_out else [style for style in ("google", "fluent") if key in pictures[style]]
        tested = ("google", "twitter") if is_held_out else ("twitter",)
        test = [style for style in tested if concept["headline"] and key in pictures[style]]
        val = []
        if len(train) == 2 and bucket(f"val/{key}", 100) < VAL_PERCENT:
            val = [train.pop(bucket(f"val-style/{key}", 2))]
        rows.append(
            {**concept, "split": "held-out" if is_held_out else "train", "train": train, "val": val, "test": test}
        )
    return rows


def drop_duplicates(rows: list[dict[str, Any]], pictures: dict[str, dict[str, bytes]]) -> int:
    """Take pictures that look like a training picture out of `test` and `val`; return how many."""
    trained = [pictures[style][row["key"]] for row in rows for style in row["train"]]
    places = [(row, part, style) for row in rows for part in ("test", "val") for style in row[part]]
    copies = near_duplicates([pictures[style][row["key"]] for row, _, style in places], trained)
    for (row, part, style), is_copy in zip(places, copies, strict=True):
        if is_copy:
            row[part].remove(style)
    return sum(copies)


def build_emoji(work: Path, assets: Path) -> None:
    concepts = read_concepts(work)
    pictures = {style: read_vendor(work, style) for style in ("google", "twitter")}
    pictures["fluent"] = read_fluent(work, {concept["key"] for concept in concepts})
    rows = assign(concepts, pictures)
    print(f"{drop_duplicates(rows, pictures)} near-duplicates of training pictures dropped")
    write_jsonl(assets / "lists/emoji.jsonl", rows)
    for style, by_key in pictures.items():
        keys = [row["key"] for row in rows if style in row["train"] + row["val"] + row["test"]]
        for part in range(PIECES_PER_STYLE):
            members = [(f"{style}/{key}.webp", by_key[key]) for key in keys[part::PIECES_PER_STYLE]]
            write_piece(assets / f"pieces/emoji-{style}-{part}.tar.gz", members)
