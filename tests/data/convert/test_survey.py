"""Groups of records that share pictures, and ids that come twice, against slow and obvious counts."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from data.convert.record import Glance
from data.convert.survey import make_survey

PICTURES = [f"{number * 0x1234567890ABCDEF % 2**128:032x}" for number in range(12)]


def reachable(records: list[list[str]], start: str) -> set[str]:
    """All pictures that hang together with one, by looking through all records until nothing is new."""
    found = {start}
    while True:
        more = found.union(*(record for record in records if found & set(record)))
        if more == found:
            return found
        found = more


@given(st.lists(st.lists(st.sampled_from(PICTURES), min_size=2, max_size=3)), st.floats(0, 1), st.randoms())
def test_pictures_that_hang_together_are_on_one_side_whatever_the_order(
    records: list[list[str]], share: float, chance: Random
) -> None:
    survey = make_survey(Glance(number, None, tuple(record)) for number, record in enumerate(records))
    chance.shuffle(records)
    other = make_survey(Glance(number, None, tuple(record)) for number, record in enumerate(records))
    for picture in PICTURES:
        together = reachable(records, picture)
        assert {survey.side(one, share) for one in together} == {other.side(picture, share)}
        assert survey.side(picture, share) == ("val" if int(min(together)[:16], 16) < share * 2**64 else "train")


@given(st.lists(st.binary(min_size=16, max_size=16) | st.just(bytes(16)) | st.none()))
def test_the_second_and_later_of_equal_ids_are_found(digests: list[bytes | None]) -> None:
    survey = make_survey(Glance(number, digest, ()) for number, digest in enumerate(digests))
    assert survey.repeated == {n for n, digest in enumerate(digests) if digest is not None and digest in digests[:n]}
    assert survey.total == len(digests)


def test_the_share_of_a_split_is_near_what_was_asked() -> None:
    survey = make_survey([])
    sides = [survey.side(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" + "0" * 16, 0.05) for number in range(20_000)]
    assert 950 <= sides.count("val") <= 1050
