import pytest

from data.assets.draws import Draws
from data.sample import Part
from eval.long_context import sources
from eval.long_context.haystack import Filler, Needle, around, fill, lay
from eval.long_context.measure import demo_measure


def build_lines(count: int) -> tuple[Part, ...]:
    return (Part(text="".join(Filler(sources.filler(Draws("t"))).first(count)) + "What?"),)


@pytest.mark.parametrize("room", [10, 40, 333, 1000, 1001, 1002])
def test_as_many_lines_are_taken_as_fit(room: int) -> None:
    measure = demo_measure()
    oracle = 0
    while measure.count(build_lines(oracle + 1), {}) <= room:
        oracle += 1
    assert fill(build_lines, {}, measure, room, "t") == (oracle, measure.count(build_lines(oracle), {}))


def test_what_does_not_fit_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"t: the question .* take 6 tokens, but 5 are left"):
        fill(build_lines, {}, demo_measure(), 5, "t")


def test_needles_stand_at_their_depths_in_order_and_pictures_after_their_text() -> None:
    lines = [f"{n}\n" for n in range(10)]
    parts, depths = lay(lines, [Needle(1.0, "last "), Needle(0.0, "first "), Needle(0.41, "P:", "0.png")])
    assert parts == (Part(text="first 0\n1\n2\n3\n4\nP:"), Part(image="0.png"), Part(text="\n5\n6\n7\n8\n9\nlast "))
    assert depths == (1.0, 0.0, 0.5)


def test_needles_without_any_filler_keep_their_order() -> None:
    parts, depths = lay([], [Needle(0.9, "b"), Needle(0.1, "a")])
    assert (parts, depths) == ((Part(text="ab"),), (0.0, 0.0))


@pytest.mark.parametrize("depth", [0.05, 0.5, 0.93])
def test_depths_around_one_rise_within_the_text_and_have_it_as_their_mean(depth: float) -> None:
    found = around(Draws("t"), depth, 4)
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] <= 1
    assert abs(sum(found) / 4 - depth) < 0.13


def test_the_filler_goes_through_all_lines_before_it_repeats_one() -> None:
    count = len(sources.lines())
    first = Filler(sources.filler(Draws("t"))).first(count + 3)
    assert sorted(first[:count]) == sorted(sources.lines())
    assert first[count:] == first[:3]
