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


def question_and_answer(record: Record) -> tuple[str, str]:
    user, assistant = json.loads(record[1]["json"])["messages"]
    return user["content"][1]["text"], assistant["content"]


def label_of(question: str, labels: set[str]) -> str:
    words = question.rstrip("?").split()
    endings = (" ".join(words[start:]) for start in range(len(words)))
    return next(
        label for ending in endings for label in (ending, ending.removesuffix(" in the picture")) if label in labels
    )


@pytest.fixture(scope="module")
def emoji() -> list[dict[str, Any]]:
    return list(Pieces().rows("emoji"))


@pytest.fixture(scope="module")
def canvas() -> SceneCanvas:
    return SceneCanvas(Pieces().members("emoji"))


@pytest.fixture(scope="module")
def known(emoji: list[dict[str, Any]]) -> Vocabulary:
    return vocabulary(emoji, "train")


def test_a_yes_or_no_about_an_emoji_cannot_be_told_from_its_words(emoji: list[dict[str, Any]]) -> None:
    blank = {f"{style}/{row['key']}.webp": b"" for row in emoji for style in row["train"]}
    labels = {row["label"] for row in emoji}
    answers = Counter()
    for record in presence_records(emoji, "train", blank):
        question, answer = question_and_answer(record)
        answers[label_of(question, labels), answer] += 1
    asked = {label for label, _ in answers}
    assert len(asked) > 1000
    assert all(answers[label, "yes"] == answers[label, "no"] for label in asked)


def test_an_emoji_is_said_to_be_missing_only_where_another_one_is_shown(emoji: list[dict[str, Any]]) -> None:
    by_key = {row["key"]: row for row in emoji}
    labels = {row["label"] for row in emoji}
    blank = {f"{style}/{row['key']}.webp": b"" for row in emoji for style in row["train"]}
    for record in presence_records(emoji, "train", blank):
        question, answer = question_and_answer(record)
        shown = by_key[record[0].split("-", 1)[1].rsplit("-", 1)[0]]["label"]
        asked = label_of(question, labels)
        assert asked == shown if answer == "yes" else not clashes(asked, [shown])


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
