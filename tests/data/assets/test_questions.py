"""The committed test questions: nothing trained on, nothing told by words."""

from collections import Counter, defaultdict
from functools import cache
from typing import Any

import pytest

from data.assets import wordings
from data.assets.build.pictures import near_duplicates
from data.assets.expand import plan_scenes
from data.assets.pieces import Pieces
from data.assets.scenes import Scene, vocabulary

pytestmark = pytest.mark.long

TESTS = ("unseen-style", "held-out-category", "presence", "counting", "location", "caption")


@cache
def rows(name: str) -> list[dict[str, Any]]:
    return Pieces().rows(name)


def test_the_unseen_style_is_in_no_training_set() -> None:
    assert all("twitter" not in row["train"] + row["val"] for row in rows("emoji"))
    names = [row["picture"] for row in rows("test-unseen-style")]
    names += [
        thing.name
        for test in ("presence", "counting", "location")
        for row in rows(f"test-{test}")
        for thing in Scene.from_json(row["picture"]).objects
    ]
    assert all(name.startswith("twitter/") for name in names)


def test_held_out_families_are_in_no_training_set() -> None:
    held_out = {row["family"] for row in rows("emoji") if row["split"] == "held-out"}
    assert 0.1 < len(held_out) / len({row["family"] for row in rows("emoji") if row["headline"]}) < 0.2
    assert all(not row["train"] and not row["val"] for row in rows("emoji") if row["family"] in held_out)
    asked = {row["group"] for row in rows("test-held-out-category")}
    assert asked <= {row["key"] for row in rows("emoji") if row["split"] == "held-out"}


def test_no_flag_no_sign_and_no_held_out_concept_is_in_a_scene() -> None:
    known = {row["key"] for row in rows("emoji") if row["headline"] and row["split"] == "train"}
    drawn = {
        thing.name.split("/")[1]
        for plan in plan_scenes("train", vocabulary(rows("emoji"), "train"))
        for thing in plan.scene.objects
    }
    assert drawn <= known


def test_no_flag_and_no_sign_is_asked_for() -> None:
    headline = {row["key"] for row in rows("emoji") if row["headline"]}
    assert all(row["picture"].split("/")[1][:-5] in headline for row in rows("test-unseen-style"))


def test_a_block_of_labels_has_each_one_right_once() -> None:
    family = {row["label"]: row["family"] for row in rows("emoji")}
    blocks = defaultdict(list)
    for row in rows("test-unseen-style"):
        blocks[row["group"]].append(row)
    for block in blocks.values():
        labels = set(block[0]["choices"])
        assert all(set(row["choices"]) == labels for row in block)
        assert {row["choices"][row["answer"]] for row in block} == labels
        assert len({family[label] for label in labels}) == 4


def test_hard_choices_are_mostly_of_one_subcategory() -> None:
    kind = {row["label"]: row["subcategory"] for row in rows("emoji")}
    hard = [len({kind[label] for label in row["choices"]}) == 1 for row in rows("test-unseen-style")]
    assert sum(hard) / len(hard) > 0.8


def test_presence_asks_pairs_of_one_question() -> None:
    pairs = defaultdict(list)
    for row in rows("test-presence"):
        pairs[row["group"]].append(row)
    for yes, no in pairs.values():
        assert yes["question"] == no["question"]
        assert yes["category"] == no["category"]
        assert {row["choices"][row["answer"]] for row in (yes, no)} == {"yes", "no"}


@pytest.mark.parametrize("name", ["unseen-style", "held-out-category", "presence"])
def test_the_right_choice_stands_at_every_place_alike(name: str) -> None:
    places = Counter(row["answer"] for row in rows(f"test-{name}"))
    share = len(rows(f"test-{name}")) / len(rows(f"test-{name}")[0]["choices"])
    assert all(abs(count - share) < 5 * share**0.5 for count in places.values())


def test_counts_and_places_are_balanced() -> None:
    assert set(Counter(row["answer"] for row in rows("test-counting")).values()) == {100}
    places = Counter((row["category"], row["answer"]) for row in rows("test-location"))
    assert len(set(places.values())) == 1


def test_words_alone_do_no_better_than_chance() -> None:
    """The label's commonest answer in training, or any answer it never had there, against the test's answers."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for plan in plan_scenes("train", vocabulary(rows("emoji"), "train")):
        votes[wordings.ask(wordings.PLACE, label=plan.target.label)][plan.place] += 1
        votes[wordings.ask(wordings.COUNT, label=plan.target.label)][str(plan.count)] += 1
    for name, chance in (("counting", 0.2), ("location", None)):
        right, by_chance = 0, 0.0
        for row in rows(f"test-{name}"):
            best = max(row["choices"], key=lambda choice, row=row: votes[row["question"]][choice])
            right += best == row["choices"][row["answer"]]
            by_chance += chance or 1 / len(row["choices"])
        # Four standard deviations above chance.
        assert right < by_chance + 4 * by_chance**0.5


def test_questions_are_asked_in_words_seen_in_training() -> None:
    assert {row["question"] for row in rows("test-unseen-style")} == {wordings.NAME[0]}
    assert {row["question"] for row in rows("test-held-out-category")} == {wordings.CATEGORY[0]}
    assert {row["question"] for row in rows("test-caption")} == {wordings.CAPTION[0]}


def test_no_title_of_a_test_caption_is_trained_on() -> None:
    trained = {row["title"] for row in rows("clipart") if row["split"] == "train"}
    assert not {row["answers"][0] for row in rows("test-caption")} & trained


def test_test_pictures_do_not_look_like_training_pictures() -> None:
    pictures = Pieces().members("emoji") | Pieces().members("clipart")
    trained = [pictures[f"{style}/{row['key']}.webp"] for row in rows("emoji") for style in row["train"]]
    asked = [row["picture"] for test in ("unseen-style", "held-out-category") for row in rows(f"test-{test}")]
    assert not any(near_duplicates([pictures[name] for name in asked[::12]], trained))
    drawn = [pictures[f"{row['key']}.webp"] for row in rows("clipart") if row["split"] == "train"]
    asked = [row["picture"] for row in rows("test-caption")]
    assert not any(near_duplicates([pictures[name] for name in asked[::4]], drawn))


@pytest.mark.parametrize("name", TESTS)
def test_ids_are_unique(name: str) -> None:
    found = [row["id"] for row in rows(f"test-{name}")]
    assert len(set(found)) == len(found)
