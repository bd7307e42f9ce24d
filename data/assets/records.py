"""Make records, as they are stored in shards, of pictures, questions and answers.

In: concepts, captions, glosses, planned scenes. Out: `(key, members)` pairs for `data.shards.write_shard`.
Each training record asks one question: a later turn of a conversation could read its answer from an earlier one.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data.assets import wordings
from data.assets.draws import Draws
from data.assets.plan import Planned, plan_absences
from data.assets.scenes import Box, Scene, compose, content

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


def scene_records(name: str, planned: Sequence[Planned], canvas: SceneCanvas) -> Iterator[Record]:
    """Yield the records of each scene: presence (yes, no), and the count or the place of its target."""
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
