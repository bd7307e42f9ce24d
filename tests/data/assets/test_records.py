"""What training records ask and answer."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from data.assets.expand import plan_scenes
from data.assets.pieces import Pieces
from data.assets.plan import Planned
from data.assets.records import Record, SceneCanvas, presence_records, scene_records
from data.assets.scenes import Vocabulary, clashes, vocabulary

pytestmark = pytest.mark.long


def question_and_answer(record: Record) -> tuple[str, str]:
    user, assistant = json.loads(record[1]["json"])["messages"]
    return user["content"][1]["text"], assistant["content"]


def blank(emoji: list[dict[str, Any]]) -> dict[str, bytes]:
    """No pictures: these tests read the words."""
    return {f"{style}/{row['key']}.webp": b"" for row in emoji for style in row["train"]}


@pytest.fixture(scope="module")
def emoji() -> list[dict[str, Any]]:
    return list(Pieces().rows("emoji"))


@pytest.fixture(scope="module")
def canvas() -> SceneCanvas:
    return SceneCanvas(Pieces().members("emoji"))


@pytest.fixture(scope="module")
def known(emoji: list[dict[str, Any]]) -> Vocabulary:
    return vocabulary(emoji, "train")


def asked_about(question: str, names: set[str]) -> str:
    """The label, subcategory or category that a question asks for."""
    words = question.rstrip("?").removesuffix(" in the picture").split()
    return next(ending for ending in (" ".join(words[start:]) for start in range(len(words))) if ending in names)


@pytest.mark.parametrize("field", ["label", "subcategory", "category"])
def test_a_yes_or_no_about_an_emoji_cannot_be_told_from_its_words(emoji: list[dict[str, Any]], field: str) -> None:
    names = {row[field] for row in emoji}
    answers: Counter[tuple[str, str]] = Counter()
    for record in presence_records(emoji, "train", blank(emoji)):
        if record[0].split("-")[-2] == field:
            question, answer = question_and_answer(record)
            answers[asked_about(question, names), answer] += 1
    asked = {name for name, _ in answers}
    assert len(asked) > {"label": 1000, "subcategory": 40, "category": 6}[field]
    assert all(answers[name, "yes"] == answers[name, "no"] for name in asked)


def test_an_emoji_is_said_to_be_missing_only_where_another_one_is_shown(emoji: list[dict[str, Any]]) -> None:
    by_key = {row["key"]: row for row in emoji}
    for record in presence_records(emoji, "train", blank(emoji)):
        question, answer = question_and_answer(record)
        key, field, _ = record[0].split("-", 1)[1].rsplit("-", 2)
        shown = by_key[key][field]
        asked = asked_about(question, {row[field] for row in emoji})
        assert asked == shown if answer == "yes" else not clashes(asked, [shown])


def test_each_name_in_the_dialogues_about_scenes_gets_as_many_yes_as_no(known: Vocabulary, canvas: SceneCanvas) -> None:
    answers: Counter[tuple[str, str]] = Counter()
    names = {concept.label for concept in known.concepts} | {concept.subcategory for concept in known.concepts}
    planned = plan_scenes("val", known)
    for record in scene_records("scenes/val", planned, canvas):
        kind = record[0].split("-")[-1]
        if kind not in ("ask", "kinds"):
            continue
        plan = planned[int(record[0].split("-")[1])]
        there = plan.kinds if kind == "kinds" else [concept.label for concept in plan.concepts]
        messages = json.loads(record[1]["json"])["messages"]
        for user, assistant in zip(messages[::2], messages[1::2], strict=True):
            text = user["content"] if isinstance(user["content"], str) else user["content"][1]["text"]
            name, answer = asked_about(text, names), assistant["content"]
            assert (name in there) == (answer == "yes")
            answers[name, answer] += 1
    asked = {name for name, _ in answers}
    assert len(asked) > 150
    assert sum(abs(answers[name, "yes"] - answers[name, "no"]) for name in asked) == 0


def test_everything_in_a_scene_is_named_once_in_reading_order(known: Vocabulary, canvas: SceneCanvas) -> None:
    planned = plan_scenes("val", known)
    for record in scene_records("scenes/val", planned, canvas):
        plan = planned[int(record[0].split("-")[1])]
        if record[0].endswith("-all"):
            cells = np.argsort([thing.cell for thing in plan.scene.objects])
            by_hand = list(dict.fromkeys(plan.concepts[i].label for i in cells))
            assert question_and_answer(record)[1] == ", ".join(by_hand)


def test_what_is_at_a_place_is_what_the_recipe_puts_there(known: Vocabulary, canvas: SceneCanvas) -> None:
    planned = plan_scenes("val", known)
    asked = 0
    for record in scene_records("scenes/val", planned, canvas):
        plan: Planned = planned[int(record[0].split("-")[1])]
        if record[0].endswith("-at"):
            question, answer = question_and_answer(record)
            there = {where: concept.label for concept, where in plan.places}
            assert answer == there[question.rstrip("?.").split(" at the ")[1]]
            asked += 1
    assert asked == 60
