"""The plot of a comparison: labels stay apart, scales are round."""

import random
from itertools import combinations
from xml.etree import ElementTree

import pytest

from vlm.encoder_comparison.plot import (
    BOTTOM,
    DOT,
    HEIGHT,
    LEFT,
    WIDTH,
    Box,
    Mark,
    draw_scores,
    log_ticks,
    place_labels,
    short,
)


@pytest.mark.parametrize("seed", range(20))
def test_no_label_covers_another_or_a_dot_or_leaves_the_drawing(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(2, 8)
    # In a small part of the drawing, so that they crowd.
    places = [(chance.uniform(200, 280), chance.uniform(100, 180)) for _ in range(count)]
    bars = [(y - chance.uniform(5, 30), y + chance.uniform(5, 30)) for _, y in places]
    boxes = place_labels(["m" * chance.randint(3, 24) for _ in places], places, bars)
    assert all(one.overlap(other) == 0 for one, other in combinations(boxes, 2))
    dots = [Box(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in places]
    assert all(box.overlap(dot) == 0 for box in boxes for dot in dots)
    assert all(
        box.left >= LEFT and box.right <= WIDTH and box.top >= 0 and box.bottom <= HEIGHT - BOTTOM for box in boxes
    )


def test_a_lone_label_stands_beside_its_dot() -> None:
    (box,) = place_labels(["ViT"], [(200.0, 150.0)], [(149.0, 151.0)])
    assert abs(box.left + box.right - 400) / 2 < 60
    assert abs(box.top + box.bottom - 300) / 2 < 20


def test_the_drawing_is_whole_and_text_in_it_is_escaped() -> None:
    marks = [Mark("a <b> & c", 1e7, 0.5, 0.4, 0.6, True), Mark("d", 3e8, 0.3, 0.2, 0.4, False)]
    figure = draw_scores("Score against FLOPs", "FLOPs", marks)
    svg = ElementTree.fromstring(figure[figure.index("<svg") : figure.index("</svg>") + 6])
    texts = [text.text for text in svg.iter("text")]
    assert {"a <b> & c", "d", "10 M", "100 M", "FLOPs"} <= set(texts)
    first, second = svg.iter("circle")
    assert float(first.attrib["cx"]) < float(second.attrib["cx"])
    assert float(first.attrib["cy"]) < float(second.attrib["cy"])  # the better score stands higher


def test_equal_marks_can_be_drawn() -> None:
    mark = Mark("same", 100.0, 0.5, 0.5, 0.5, True)
    assert draw_scores("t", "x", [mark, mark]).count("<circle") == 2


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(5.0, 2e3, [10, 100, 1000]), (90.0, 1200.0, [100, 300, 1000]), (20.0, 110.0, [20, 50, 100])],
)
def test_ticks_are_round_numbers_in_the_range(low: float, high: float, found: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(found)
    assert [short(value) for value in (20.0, 3e3, 2e6, 5e9, 1e12)] == ["20", "3 k", "2 M", "5 G", "1 T"]
