import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answers import (
    extract_mathvista,
    match_open_mmmu,
    normalize_mathvista,
    parse_boxes,
    parse_counts,
    parse_open_mmmu,
)
from eval.answers.boxes import CONVENTIONS
from eval.metrics import box_iou


@given(st.text(st.sampled_from("is so=5.,1ea \n-"), max_size=40))
def test_an_open_answer_is_read_the_same_each_time_and_nothing_twice(response: str) -> None:
    parsed = parse_open_mmmu(response)
    assert parsed == parse_open_mmmu(response)
    assert len(set(parsed)) == len(parsed) > 0


def test_the_order_of_an_open_answer_is_that_of_appearance() -> None:
    assert parse_open_mmmu("so it is 1,234 cm\nthe answer is 7") == ["1,234 cm", 7.0, 1234.0, 234.0]


def test_a_single_letter_does_not_match_inside_a_word() -> None:
    assert match_open_mmmu(parse_open_mmmu("the answer is cat"), "a") == 0.0
    assert match_open_mmmu(parse_open_mmmu("the answer is a cat"), "a") == 1.0


@pytest.mark.parametrize(
    ("extraction", "kind", "answer"),
    [
        ("(b) what", "multi_choice", "dog"),
        ("", "multi_choice", "cat"),
        ("dgo", "multi_choice", "dog"),
        ("5.9", "integer", "5"),
        ("1,000", "integer", None),
        ("inf", "integer", None),
        ("2.345", "float", "2.35"),
        ("two", "float", None),
    ],
)
def test_mathvista_normalises_as_its_code_does(extraction: str, kind: str, answer: str | None) -> None:
    question = "multi_choice" if kind == "multi_choice" else "free_form"
    assert normalize_mathvista(extraction, ["cat", "dog"], question, kind, 2.0) == answer


def test_mathvista_without_choices_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs its choices"):
        normalize_mathvista("A", [], "multi_choice", "text", None)


@pytest.mark.parametrize(
    ("response", "question", "kind", "answer"),
    [
        ("cat", "multi_choice", "text", "cat"),
        ("The correct option is (B) dog", "multi_choice", "text", "B"),
        ("B.", "multi_choice", "text", "B"),
        ("it is a dog", "multi_choice", "text", "dog"),
        ("cat or dog", "multi_choice", "text", None),
        ("5", "free_form", "integer", "5"),
        ("There are 1,200 of the 3,400", "free_form", "integer", "3400"),
        ("none", "free_form", "integer", None),
        ("so 2.5 m", "free_form", "float", "2.5"),
        ("between [2007, 2008]", "free_form", "list", "[2007, 2008]"),
        ('The answer is "42".', "free_form", "integer", "42"),
        ("", "free_form", "text", None),
    ],
)
def test_mathvista_is_read_by_rules_alone(response: str, question: str, kind: str, answer: str | None) -> None:
    assert extract_mathvista(response, ["cat", "dog"], question, kind) == answer


def test_counts_are_read_from_json_fences_and_objects() -> None:
    given = ("[1, 2]", "```json\n[1, 2]\n```", '{"a": [1], "b": [2]}', "[1, 2].", "1, 2", '{"a": 1}', "[" * 100_000)
    assert [parse_counts(text) for text in given] == [[1, 2]] * 4 + [None] * 3


@pytest.mark.parametrize(
    "response",
    [
        "[100, 200, 300, 400]",
        "(100,200),(300,400)",
        "<ref>it</ref><box>(100,200),(300,400)</box>",
        "<|box_start|>(100,200),(300,400)<|box_end|>",
        '```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "it"}]\n```',
        "<box>[[100, 200, 300, 400]]</box>",
        "It is at [ 100.0,200 , 300,4e2 ].",
    ],
)
def test_a_box_is_read_in_every_way_in_which_models_write_it(response: str) -> None:
    assert parse_boxes(response, "xyxy") == [[100.0, 200.0, 300.0, 400.0]]


@pytest.mark.parametrize("response", ["", "none", "[1, 2, 3]", "[1, 2, 3, 4, 5]", "100, 200, 300, 400", "[a, b, c, d]"])
def test_an_answer_without_a_box_is_unread(response: str) -> None:
    assert parse_boxes(response, "xyxy") is None


def write_box(box: list[float], convention: str, size: tuple[int, int]) -> str:
    """The same box in each convention."""
    width, height = size
    side = max(size)
    left, top = (side - width) / 2, (side - height) / 2
    x1, y1, x2, y2 = box
    numbers = {
        "xyxy": box,
        "xywh": [x1, y1, x2 - x1, y2 - y1],
        "0-1": [x1 / width, y1 / height, x2 / width, y2 / height],
        "0-999": [999 * x1 / width, 999 * y1 / height, 999 * x2 / width, 999 * y2 / height],
        "0-1000": [1000 * x1 / width, 1000 * y1 / height, 1000 * x2 / width, 1000 * y2 / height],
        "square": [(x1 + left) / side, (y1 + top) / side, (x2 + left) / side, (y2 + top) / side],
    }[convention]
    return str(numbers)


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500)])
def test_each_convention_names_the_same_box_of_the_picture(convention: str, size: tuple[int, int]) -> None:
    box = [10.0, 20.0, 300.0, 400.0]
    found = parse_boxes(write_box(box, convention, size), convention, image_size=size)  # type: ignore[arg-type]
    assert found is not None
    assert box_iou(found[0], box) == pytest.approx(1)


def test_a_box_on_a_resized_picture_is_scaled_back() -> None:
    assert parse_boxes("[10, 10, 20, 20]", "xyxy", image_size=(640, 480), seen_size=(320, 120)) == [[20, 40, 40, 80]]


def test_relative_boxes_without_a_size_are_shares() -> None:
    assert parse_boxes("[[250, 500, 750, 1000]] and [0, 0, 1, 1]", "0-1000") == [
        [0.25, 0.5, 0.75, 1],
        [0, 0, 0.001, 0.001],
    ]


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"convention": "square"}, "need image_size"),
        ({"convention": "xyxy", "image_size": (0, 5)}, "above 0"),
        ({"convention": "0-1", "image_size": (5, 5), "seen_size": (5, 5)}, "seen_size"),
    ],
)
def test_sizes_that_are_missing_or_wrong_are_errors(how: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_boxes("[0, 0, 1, 1]", **how)  # type: ignore[arg-type]
