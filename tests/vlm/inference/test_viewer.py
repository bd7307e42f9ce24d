from collections.abc import Callable
from html.parser import HTMLParser

import pytest
import torch

from data.batch import collate
from data.sample import Part, Question
from data.text import prompt_row
from vlm.inference.draw_concepts import color_concepts, draw_picture, draw_words
from vlm.inference.viewer import ConceptView, concepts, view_concepts
from vlm.model import VisionLanguageModel

Make = Callable[..., Question]


@pytest.fixture
def view(model: VisionLanguageModel, make_question: Make) -> ConceptView:
    return view_concepts(model, make_question("What <b>is</b> this?", "red", "blue"), "A red square.")


def test_a_concept_ends_with_its_closing_token() -> None:
    closes = torch.tensor([True, False, True, True, False, False, True, False])
    assert concepts(closes).tolist() == [0, 1, 1, 2, 3, 3, 3, 4]


def test_the_view_agrees_with_the_backbone_run_from_pixels(
    model: VisionLanguageModel, make_question: Make, view: ConceptView
) -> None:
    question = make_question("What <b>is</b> this?", "red", "blue")
    row = prompt_row(question.content, question.images, model.tokenizer, model.layout, answer="A red square.")
    assert model.layout is not None
    with torch.no_grad():
        chunks = model(collate([row], model.layout.spec)).chunks
    assert chunks is not None
    assert [token.closes for token in view.tokens] == chunks.closes.tolist()
    assert [token.prob for token in view.tokens] == pytest.approx(chunks.prob.tolist(), abs=1e-4)
    assert [token.concept for token in view.tokens] == concepts(chunks.closes).tolist()
    # What a token sees is the last closed concept: its own where it closes it, else the one before.
    seen = [token.concept - (not token.closes) for token in view.tokens]
    assert seen == chunks.concept_of_token.tolist()
    assert view.num_concepts == int(chunks.closes.sum())


def test_slots_are_told_apart_by_picture_row_and_column(view: ConceptView) -> None:
    places = [(token.picture, token.row, token.column) for token in view.tokens if token.picture is not None]
    assert places == [(picture, row, column) for picture in range(2) for row in range(4) for column in range(4)]


def test_words_are_those_of_prompt_and_answer(view: ConceptView) -> None:
    words = "".join(token.text for token in view.tokens if not token.special)
    assert words == "What <b>is</b> this?A red square."
    answer = view.tokens[view.answer_start :]
    assert "".join(token.text for token in answer if not token.special) == "A red square."
    assert view.tokens[0].text == "start"
    assert view.tokens[-1].text == "end"


def test_without_an_answer_the_model_is_asked(model: VisionLanguageModel, make_question: Make) -> None:
    view = view_concepts(model, make_question("What is this?", "red"), max_new_tokens=6)
    assert 1 <= len(view.tokens) - view.answer_start <= 6


def test_neighbours_never_share_a_colour(view: ConceptView) -> None:
    colors = color_concepts(view)
    for one, two in zip(view.tokens, view.tokens[1:], strict=False):
        assert one.concept == two.concept or colors[one.concept] != colors[two.concept]
    slots = {(token.picture, token.row, token.column): token.concept for token in view.tokens}
    for (picture, row, column), concept in slots.items():
        below = slots.get((picture, row + 1, column), concept)
        assert below == concept or colors[below] != colors[concept]


class Elements(HTMLParser):
    """Counts elements by class, and checks that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.classes: list[str] = []
        self.paths: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        for name, value in attrs:
            if name == "class":
                self.classes += (value or "").split()
            if name == "d":
                self.paths.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_picture_has_a_cell_for_each_slot_and_a_line_between_concepts(view: ConceptView) -> None:
    drawn = Elements(draw_picture(view, 1))
    slots = [token for token in view.tokens if token.picture == 1]
    assert drawn.classes.count("cell") == 16
    assert drawn.classes.count("close") == sum(token.closes for token in slots)
    at = {(token.row, token.column): token.concept for token in slots}
    sides = sum(at[r, c] != at[r, c + 1] for r in range(4) for c in range(3))
    sides += sum(at[r, c] != at[r + 1, c] for r in range(3) for c in range(4))
    assert drawn.paths[0].count("M") == sides > 0


def test_words_are_escaped_and_grouped_by_concept(view: ConceptView) -> None:
    drawn = Elements(draw_words(view))
    texts = [token for token in view.tokens if token.picture is None]
    assert drawn.classes.count("token") == len(texts)
    assert drawn.classes.count("closes") == sum(token.closes for token in texts)
    assert drawn.classes.count("picture-mark") == 2
    assert "<b>" in drawn.text  # as text, not as an element


def test_a_prompt_that_is_a_picture_alone_can_be_drawn(model: VisionLanguageModel, make_question: Make) -> None:
    question = make_question("", "red")
    alone = Question(key="q", id="q", content=(Part(image="0.png"),), images=question.images)
    assert "<svg" in draw_picture(view_concepts(model, alone, "yes"))
