"""Make records, as they are stored in shards, of pictures, questions and answers.

In: concepts, captions, glosses, planned scenes. Out: `(key, members)` pairs for `data.shards.write_shard`.
A record asks one question, or several of which none tells the answer to another: a later turn could read it otherwise.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data.assets import wordings
from data.assets.draws import Draws, bucket
from data.assets.plan import Planned, plan_absences
from data.assets.scenes import Box, Scene, clashes, compose, content

Record = tuple[str, dict[str, bytes]]


def encode(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def user_parts(extension: str, text: str) -> list[dict[str, str]]:
    return [{"type": "image", "image": extension}, {"type": "text", "text": text}]


def conversation(key: str, image: tuple[str, bytes], question: str, answer: str, **more: Any) -> Record:
    """One question about one picture, with its answer."""
    extension, data = image
    turns = [{"role": "user", "content": user_parts(extension, question)}, {"role": "assistant", "content": answer}]
    return key, {"json": encode({"id": key, "messages": turns, **more}), extension: data}


class SceneCanvas:
    """Composes scenes from stored pictures, decoding each picture once."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self.members = members
        self.pixels: dict[str, np.ndarray] = {}

    def draw(self, scene: Scene) -> tuple[bytes, list[Box]]:
        """Return the scene as PNG, and the boxes of its things."""
        for thing in scene.objects:
            if thing.name not in self.pixels:
                picture = Image.open(io.BytesIO(self.members[f"{thing.name}.webp"])).convert("RGBA")
                self.pixels[thing.name] = content(np.asarray(picture))
        canvas, boxes = compose(scene, self.pixels)
        buffer = io.BytesIO()
        Image.fromarray(canvas).save(buffer, format="PNG", compress_level=6)
        return buffer.getvalue(), boxes


def emoji_records(rows: Sequence[Mapping[str, Any]], part: str, pictures: Mapping[str, bytes]) -> Iterator[Record]:
    """Yield four records of each picture: two that name it, one of its category, one of its tags or its kind.

    Flags and sign squares, which no test asks for, get two: one that names it and one of its category.
    """
    for row in rows:
        for style in row[part]:
            draws = Draws(f"{part}/{style}/{row['key']}")
            image = ("0.webp", pictures[f"{style}/{row['key']}.webp"])
            key = f"{style}-{row['key']}"
            yield conversation(f"{key}-name", image, wordings.ask(wordings.NAME), row["label"])
            yield conversation(f"{key}-kind", image, wordings.ask(wordings.CATEGORY, draws), row["category"])
            if not row["headline"]:
                continue
            yield conversation(f"{key}-named", image, draws.choice(wordings.NAME[1:]), row["label"])
            if row["tags"] and draws.below(2):
                tags = ", ".join(draws.sample(row["tags"], 4))
                yield conversation(f"{key}-tags", image, wordings.ask(wordings.TAGS, draws), tags)
            else:
                answer = f"{row['label']} ({row['subcategory']})"
                yield conversation(f"{key}-more", image, wordings.ask(wordings.DETAILS, draws), answer)


def dialogue(key: str, image: tuple[str, bytes], turns: Sequence[tuple[str, str]], **more: Any) -> Record:
    """Several questions about one picture, none of which tells the answer to another."""
    extension, data = image
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(turns):
        messages.append({"role": "user", "content": user_parts(extension, question) if number == 0 else question})
        messages.append({"role": "assistant", "content": answer})
    return key, {"json": encode({"id": key, "messages": messages, **more}), extension: data}


def presence_records(rows: Sequence[Mapping[str, Any]], part: str, pictures: Mapping[str, bytes]) -> Iterator[Record]:
    """Yield, of each emoji picture that tests ask for, a yes and a no about its label, its subcategory and its category.

    What is asked for is asked exactly as often with a yes as with a no, so the words alone say nothing. The no is about
    what another picture shows: for labels in every other style one of the same subcategory, else any. The few categories
    are learned first, and the many labels by way of them.
    """
    styles = sorted({style for row in rows for style in row[part]})
    for number, style in enumerate(styles):
        shown = [row for row in rows if row["headline"] and style in row[part]]
        for field in ("label", "subcategory", "category"):
            words = wordings.PRESENCE if field == "label" else wordings.KIND
            near = [row["subcategory"] if field == "label" and number % 2 == 0 else "" for row in shown]
            order = sorted(range(len(shown)), key=lambda i: (near[i], bucket(f"{style}/{shown[i]['key']}", 2**32)))
            for place, index in enumerate(order):
                row, name = shown[index], shown[index][field]
                before, after = shown[order[place - 1]][field], shown[order[(place + 1) % len(order)]][field]
                draws = Draws(f"{part}/presence/{style}/{row['key']}/{field}")
                image = ("0.webp", pictures[f"{style}/{row['key']}.webp"])
                key = f"{style}-{row['key']}-{field}"
                # What cannot be asked for in the picture before, as words clash, is not asked for in its own either.
                if not clashes(before, [name]):
                    yield conversation(f"{key}-yes", image, wordings.ask(words, draws, name), "yes")
                if not clashes(name, [after]):
                    yield conversation(f"{key}-no", image, wordings.ask(words, draws, after), "no")


def scene_records(name: str, planned: Sequence[Planned], canvas: SceneCanvas) -> Iterator[Record]:
    """Yield the records of each scene: presence (yes, no), the count or the place of its target, and what is in it.

    A yes or no says one bit about one thing. Dialogues ask for everything that is there and for what the scenes before
    show instead, so that each label gets a no wherever it got a yes; naming all things says what each is and where.
    """
    absent = {absence.scene: absence for absence in plan_absences(name, planned)}
    asked = {absence.partner for absence in absent.values()}
    for index, plan in enumerate(planned):
        data, boxes = canvas.draw(plan.scene)
        image, draws, label = ("0.png", data), Draws(f"{name}/words/{index}"), plan.target.label
        things = zip(plan.concepts, boxes, strict=True)
        meta = {"objects": [[concept.label, *box] for concept, box in things]}
        key = f"scene-{index:05d}"
        if index in asked:
            yield conversation(f"{key}-yes", image, wordings.ask(wordings.PRESENCE, draws, label), "yes", meta=meta)
        if index in absent:
            question = wordings.ask(wordings.PRESENCE, draws, absent[index].concept.label)
            yield conversation(f"{key}-no", image, question, "no", meta=meta)
        if is_count(index):
            question = wordings.ask(wordings.COUNT, draws, label)
            yield conversation(f"{key}-count", image, question, str(plan.count), meta=meta)
        else:
            yield conversation(f"{key}-place", image, wordings.ask(wordings.PLACE, draws, label), plan.place, meta=meta)
            at, where = draws.choice(plan.places)
            yield conversation(f"{key}-at", image, wordings.ask(wordings.AT, draws, where), at.label, meta=meta)
            where_all = draws.shuffled(
                [(wordings.ask(wordings.PLACE, draws, c.label), spot) for c, spot in plan.places]
            )
            yield dialogue(f"{key}-places", image, where_all, meta=meta)
        before, after = planned[index - 1], planned[(index + 1) % len(planned)]
        turns = [(c.label, "yes") for c in plan.distinct if not after.shows(c)]
        turns += [(c.label, "no") for c in before.distinct if not plan.shows(c)]
        kinds = [(kind, "yes") for kind in plan.kinds if kind not in after.kinds]
        kinds += [(kind, "no") for kind in before.kinds if kind not in plan.kinds]
        # Apart, since a thing that is there says that its kind is.
        for name_of, asked_for, words in (("ask", turns, wordings.PRESENCE), ("kinds", kinds, wordings.KIND)):
            said = [(wordings.ask(words, draws, asked), answer) for asked, answer in draws.shuffled(asked_for)]
            if said:
                yield dialogue(f"{key}-{name_of}", image, said, meta=meta)
        everything = ", ".join(dict.fromkeys(thing.label for thing, _ in plan.places))
        yield conversation(f"{key}-all", image, wordings.ask(wordings.ALL, draws), everything, meta=meta)


def is_count(index: int) -> bool:
    """Say whether a scene of the training plan is one to count in: two of five are."""
    return index % 5 < 2


def clipart_records(rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> Iterator[Record]:
    """Yield a caption record of each picture; a description follows the title where there is one."""
    for row in rows:
        draws = Draws(f"clipart/{row['key']}")
        answer = f"{row['title']}. {row['description']}" if row["description"] else row["title"]
        image = ("0.webp", pictures[f"{row['key']}.webp"])
        yield conversation(row["key"], image, wordings.ask(wordings.CAPTION, draws), answer)


def gloss_records(rows: Sequence[Mapping[str, Any]]) -> Iterator[Record]:
    """Yield a document of each gloss."""
    for index, row in enumerate(rows):
        key = f"gloss-{index:05d}"
        text = f"{row['label']}: {row['gloss']}"
        yield key, {"json": encode({"id": key, "content": [{"type": "text", "text": text}]})}


def question_record(row: Mapping[str, Any], members: Mapping[str, bytes], canvas: SceneCanvas) -> Record:
    """Make a test record of a line of a question list, whose `picture` names a member or is a scene's recipe."""
    if isinstance(row["picture"], str):
        extension, data = "0.webp", members[row["picture"]]
    else:
        extension, data = "0.png", canvas.draw(Scene.from_json(row["picture"]))[0]
    fields = {name: value for name, value in row.items() if name not in ("picture", "question")}
    return row["id"], {"json": encode({**fields, "content": user_parts(extension, row["question"])}), extension: data}
