"""Contexts are what they say: as long as asked for, the needle where it is said to be, the answer in the text."""

import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data.image_layout import ImageLayout
from data.image_spec import ImageSpec
from data.sample import Question
from data.tokenizer import Tokenizer
from eval.long_context import sources
from eval.long_context.measure import Measure, demo_measure
from eval.long_context.questions import QUESTIONS, LongContext
from eval.tasks.long_context import KINDS, long_task

SOME = (0, 57, 99)


def asked(kind: str, length: int) -> list[Question]:
    questions = long_task(kind, length).questions()
    return [questions[number] for number in SOME]


def words(question: Question) -> str:
    return "".join(part.text or f"<{part.image}>" for part in question.content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1024, pytest.param(4096, marks=pytest.mark.long)])
def test_prompt_and_answer_fill_the_length_to_within_a_line_and_never_more(kind: str, length: int) -> None:
    task, measure = long_task(kind, length), demo_measure()
    for question in asked(kind, length):
        tokens = measure.count(task.ask(question).content, question.images)
        assert tokens == question.meta["tokens"]
        assert length - 55 <= tokens + task.max_new_tokens <= length


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_takes_no_more_tokens_than_are_kept_for_it(kind: str) -> None:
    task, tokenizer = long_task(kind, 512), demo_measure().tokenizer
    questions = task.questions()
    assert max(len(tokenizer.encode(questions[n].answers[0])) + 1 for n in range(0, 100, 19)) <= task.max_new_tokens


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "aggregate"])
def test_the_questions_go_through_five_depths_and_the_depth_is_where_the_needle_stands(kind: str) -> None:
    questions = long_task(kind, 1024).questions()
    depths = [questions[number].meta["depth"] for number in (0, 19, 20, 45, 50, 79, 80, 99)]
    for depth, row in zip(depths, (0, 0, 1, 2, 2, 3, 4, 4), strict=True):
        assert row / 5 - 0.12 <= depth <= (row + 1) / 5 + 0.12  # at 1,024 tokens a line is up to 6 %
    if kind in ("retrieve-one", "answer"):
        question = questions[45]
        text = words(question).split("end.\n\n", 1)[1].rsplit("\n\nQuestion:", 1)[0]
        place = text.index(question.answers[0]) / len(text)
        assert abs(place - question.meta["depth"]) < 0.1


def test_the_one_code_stands_in_the_text_beside_its_box() -> None:
    for question in asked("retrieve-one", 1024):
        told = re.findall(r"The box with (.+) on it has the code (\d{5})\.", words(question))
        assert [code for _, code in told] == list(question.answers)
        assert told[0][0] in question.content[-1].text.rsplit("Question:", 1)[1]  # type: ignore[union-attr]


def test_the_codes_asked_for_are_those_of_the_boxes_in_the_order_of_the_question() -> None:
    for question in asked("retrieve-many", 1024):
        text = words(question)
        told = dict(re.findall(r"The box with (.+) on it has the code (\d{5})\.", text))
        names = re.search(r"codes have the boxes with (.+) on them", text).group(1).split(", ")  # type: ignore[union-attr]
        assert len(told) == 8
        assert [told[name] for name in names] == question.meta["wanted"]


def test_a_trace_followed_hop_by_hop_ends_at_the_answer() -> None:
    for question in asked("trace", 1024):
        text = words(question)
        key = re.search(r"Who has the (\w+) key", text).group(1)  # type: ignore[union-attr]
        owner = ""
        for line in text.splitlines():
            if first := re.fullmatch(rf"The {key} key is with the (.+)\.", line):
                owner = first.group(1)
            elif (hop := re.fullmatch(r"The (.+) gives all it has to the (.+)\.", line)) and hop.group(1) == owner:
                owner = hop.group(2)
        assert question.answers == (owner,)
        assert len(question.meta["guesses"]) == 10


@pytest.mark.parametrize("length", [512, 1024])
def test_the_names_asked_for_come_most_often(length: int) -> None:
    for question in asked("aggregate", length):
        text = words(question).split("end.\n\n", 1)[1].rsplit(".\n", 1)[0]
        (_, third), (_, fourth) = Counter(text.split(", ")).most_common(4)[2:]
        assert {name for name, _ in Counter(text.split(", ")).most_common(3)} == set(question.meta["wanted"])
        assert third > fourth


def test_what_is_sold_is_that_of_the_one_who_keeps_the_animal() -> None:
    for question in asked("answer", 1024):
        text = words(question)
        animal = re.search(r"who keeps an? (.+)\?", text).group(1)  # type: ignore[union-attr]
        told = re.findall(r"(\w+) keeps an? (.+) behind the house. On market days (\w+) sells (?:an? )?(.+)\.", text)
        assert len({name for name, *_ in told}) == len(told) == 6
        assert [good for name, kept, seller, good in told if kept == animal and name == seller] == list(
            question.answers
        )


def test_the_picture_asked_for_is_that_of_the_answer() -> None:
    known = {one.label: one for one in sources.concepts().concepts}
    for question in asked("picture-needle", 1024):
        text = words(question)
        number = int(re.search(r"What does picture (\d+) show", text).group(1))  # type: ignore[union-attr]
        assert re.findall(r"Picture (\d+):\n<(\d+).webp>\n", text) == [(str(n + 1), str(n)) for n in range(4)]
        concept = known[question.answers[0]]
        assert question.images[f"{number - 1}.webp"] == sources.pictures()[f"{concept.styles[0]}/{concept.key}.webp"]


def test_scenes_to_count_in_are_pictures_with_the_counts_of_the_answer() -> None:
    for question in asked("picture-count", 1024):
        assert len(question.images) == 4
        assert all(Image.open(io.BytesIO(data)).size == (128, 128) for data in question.images.values())
        assert question.answers == (f"[{', '.join(question.meta['wanted'])}]",)


@pytest.mark.parametrize("kind", KINDS)
def test_the_questions_are_the_same_bytes_every_time(kind: str) -> None:
    # Pictures by their pixels: PNG bytes may change with the image library.
    def digest() -> str:
        total = hashlib.sha256()
        for question in asked(kind, 512):
            shown = [Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in question.images.values()]
            total.update(json.dumps([question.id, words(question), question.answers, question.meta]).encode())
            total.update(b"".join(shown))
        return total.hexdigest()

    kept = json.loads((Path(__file__).parent / "digests.json").read_text())
    assert digest() == kept[kind]


def test_a_longer_context_asks_something_else_and_no_two_questions_are_the_same() -> None:
    questions = long_task("retrieve-one", 512).questions()
    some = questions[::4]
    assert len({question.answers for question in some}) == len({question.id for question in some}) == 25
    assert len(questions) == QUESTIONS
    assert long_task("retrieve-one", 600).questions()[0].answers != questions[0].answers


def measure_with_slots(side: int) -> Measure:
    spec = ImageSpec(size_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Measure(Tokenizer("demo"), ImageLayout(spec, (side, side)))


def test_large_pictures_leave_half_of_the_room_to_the_text() -> None:
    task = replace(LongContext("picture-needle", 4096, 16), measure=lambda: measure_with_slots(24))
    question = task()[99]
    assert len(question.images) == 3  # of 576 slots each
    assert 4096 - 55 <= question.meta["tokens"] + 16 <= 4096


def test_pictures_too_large_for_the_length_are_refused_with_a_length_that_works() -> None:
    task = replace(LongContext("picture-count", 1024, 16), measure=lambda: measure_with_slots(24))
    with pytest.raises(
        ValueError, match=r"a picture takes 576 tokens .* at least 2304, such as long/picture-count@4608"
    ):
        task()[0]


def test_a_model_without_pictures_is_told_so() -> None:
    task = replace(LongContext("picture-needle", 1024, 16), measure=lambda: Measure(Tokenizer("demo"), None))
    with pytest.raises(ValueError, match="no image encoder"):
        task()[0]
    assert replace(LongContext("trace", 1024, 16), measure=lambda: Measure(Tokenizer("demo"), None))()[0].images == {}
