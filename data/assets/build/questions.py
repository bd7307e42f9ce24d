"""Write the question lists of the test sets: which pictures, which choices in which order, which answer.

In: `lists/emoji.jsonl`, `lists/clipart.jsonl` and the pieces. Out: `lists/test-NAME.jsonl`. Each list is made so that
words alone give no hint; what that means is said at each function.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.assets import wordings
from data.assets.draws import Draws
from data.assets.pieces import write_jsonl
from data.assets.plan import Planned, plan_absences, plan_count, plan_objects
from data.assets.records import SceneCanvas
from data.assets.scenes import MAX_COUNT, PLACES, vocabulary

Row = dict[str, Any]
NUM_CHOICES = 4
NUM_PRESENCE_SCENES = 420
NUM_COUNTING = 500
NUM_PLACES_EACH = 36  # questions for each of the 4 places of two rows, and each of the 9 of three rows


def unseen_style(concepts: Sequence[Row]) -> list[Row]:
    """Ask what a picture of the unseen style is, among four labels of one subcategory and four families.

    The concepts are dealt into blocks of four, and a block's four labels are the choices of its four questions, each
    right once: whatever words alone prefer is right in exactly one of the four.
    """
    rest: dict[str, list[Row]] = defaultdict(list)
    blocks: list[list[Row]] = []
    by_kind: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for concept in concepts:
        if concept["split"] == "train" and "twitter" in concept["test"]:
            by_kind[concept["category"], concept["subcategory"]].append(concept)
    for (category, subcategory), members in by_kind.items():
        dealt, left = deal(members, f"blocks/{subcategory}")
        blocks += dealt
        rest[category] += left
    for category, members in rest.items():
        blocks += deal(members, f"blocks/{category}")[0]
    rows = []
    for number, block in enumerate(blocks):
        for concept in block:
            draws = Draws(f"unseen-style/{concept['key']}")
            choices = draws.shuffled([other["label"] for other in block])
            rows.append(
                {
                    "id": f"style-{concept['key']}",
                    "picture": f"twitter/{concept['key']}.webp",
                    "question": wordings.ask(wordings.NAME),
                    "choices": choices,
                    "answer": choices.index(concept["label"]),
                    "category": concept["category"],
                    "group": f"block-{number:03d}",
                }
            )
    return rows


def deal(members: Sequence[Row], name: str) -> tuple[list[list[Row]], list[Row]]:
    """Deal concepts into blocks of four different families, the largest first; return the blocks and the rest."""
    families: dict[str, list[Row]] = defaultdict(list)
    for concept in Draws(name).shuffled(members):
        families[concept["family"]].append(concept)
    blocks = []
    while len(families) >= NUM_CHOICES:
        largest = sorted(families, key=lambda family: -len(families[family]))[:NUM_CHOICES]
        blocks.append([families[family].pop() for family in largest])
        families = defaultdict(list, {family: left for family, left in families.items() if left})
    return blocks, [concept for left in families.values() for concept in left]


def held_out_category(concepts: Sequence[Row]) -> list[Row]:
    """Ask for the category of concepts never seen, in a known and in the unseen style; a concept is one group."""
    held_out = [concept for concept in concepts if concept["split"] == "held-out" and concept["test"]]
    groups = sorted({concept["category"] for concept in concepts if concept["headline"]})
    rows = []
    for concept in held_out:
        for style in concept["test"]:
            choices = Draws(f"held-out-category/{style}/{concept['key']}").shuffled(groups)
            rows.append(
                {
                    "id": f"held-{style}-{concept['key']}",
                    "picture": f"{style}/{concept['key']}.webp",
                    "question": wordings.ask(wordings.CATEGORY),
                    "choices": choices,
                    "answer": choices.index(concept["category"]),
                    "category": style,
                    "group": concept["key"],
                    "meta": {"label": concept["label"]},
                }
            )
    return rows


def scene_row(plan: Planned, canvas: SceneCanvas, **fields: Any) -> Row:
    """Start a question about a scene, with the box of its target (the first one of several)."""
    boxes = canvas.draw(plan.scene)[1]
    meta = {"objects": [[concept.label, *box] for concept, box in zip(plan.concepts, boxes, strict=True)]}
    return {"picture": plan.scene.to_json(), "box": list(boxes[0]), "meta": meta, **fields}


def presence(concepts: Sequence[Row], canvas: SceneCanvas) -> list[Row]:
    """Ask whether a thing is there, in pairs (`group`) of one label, once there and once not: words give no hint.

    `category` says how the scene without it was found: any scene and any label, any scene and a popular label, or a
    scene that shows something of the same subcategory.
    """
    known = vocabulary(concepts, "test")
    planned = [plan_objects("scenes/test-presence", index, known) for index in range(NUM_PRESENCE_SCENES)]
    rows = []
    for number, absence in enumerate(plan_absences("scenes/test-presence", planned)):
        question = wordings.ask(wordings.PRESENCE, label=absence.concept.label)
        for word, index in (("yes", absence.partner), ("no", absence.scene)):
            choices = Draws(f"presence/{number}/{word}").shuffled(["yes", "no"])
            row = scene_row(
                planned[index],
                canvas,
                id=f"presence-{number:03d}-{word}",
                question=question,
                choices=choices,
                answer=choices.index(word),
                category=absence.strategy,
                group=f"pair-{number:03d}",
            )
            if word == "no":
                del row["box"]
            rows.append(row)
    return rows


def counting(concepts: Sequence[Row], canvas: SceneCanvas) -> list[Row]:
    """Ask how often a thing appears: each count equally often, beside 0 to 3 other things whatever the count."""
    known, choices = vocabulary(concepts, "test"), [str(count) for count in range(1, MAX_COUNT + 1)]
    rows = []
    for index in range(NUM_COUNTING):
        plan = plan_count("scenes/test-counting", index, known, copies=1 + index % MAX_COUNT)
        question = wordings.ask(wordings.COUNT, label=plan.target.label)
        answer = plan.count - 1
        rows.append(scene_row(plan, canvas, id=f"count-{index:03d}", question=question, choices=choices, answer=answer))
    return rows


def location(concepts: Sequence[Row], canvas: SceneCanvas) -> list[Row]:
    """Ask where a thing is: each of the 4 or 9 places equally often."""
    known = vocabulary(concepts, "test")
    wanted = Counter({(side, place): NUM_PLACES_EACH for side, places in PLACES.items() for place in places})
    rows: list[Row] = []
    index = 0
    while wanted.total():
        plan = plan_objects("scenes/test-location", index, known)
        index += 1
        side, choices = plan.scene.side, list(PLACES[plan.scene.side])
        if not wanted[side, plan.place]:
            continue
        wanted[side, plan.place] -= 1
        row = scene_row(
            plan,
            canvas,
            id=f"place-{len(rows):03d}",
            question=wordings.ask(wordings.PLACE, label=plan.target.label),
            choices=choices,
            answer=choices.index(plan.place),
            category=f"{side}x{side}",
        )
        rows.append(row)
    return rows


def caption(clipart: Sequence[Row]) -> list[Row]:
    """Ask for a description of held-out clip art; the answer is its title."""
    return [
        {
            "id": f"caption-{row['key']}",
            "picture": f"{row['key']}.webp",
            "question": wordings.ask(wordings.CAPTION),
            "answers": [row["title"]],
            "category": row["file"].split("/")[0],
        }
        for row in clipart
        if row["split"] == "test"
    ]


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def build_questions(assets: Path, members: Mapping[str, bytes]) -> None:
    """Write all lists; `members` are the pictures of the pieces."""
    concepts, clipart = (read_rows(assets / f"lists/{name}.jsonl") for name in ("emoji", "clipart"))
    canvas = SceneCanvas(members)
    lists = {
        "unseen-style": unseen_style(concepts),
        "held-out-category": held_out_category(concepts),
        "presence": presence(concepts, canvas),
        "counting": counting(concepts, canvas),
        "location": location(concepts, canvas),
        "caption": caption(clipart),
    }
    for name, rows in lists.items():
        write_jsonl(assets / f"lists/test-{name}.jsonl", rows)
        print(f"test/{name}: {len(rows)} questions")
